"""The API description: OpenAPI document, Markdown page and the page at /docs."""
