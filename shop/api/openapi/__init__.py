"""The OpenAPI document, its Markdown version, and the page at /docs."""
