// Shows the API description. A token from "Authorize" goes with what "Try it out" sends, and is forgotten with the page.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  validatorUrl: null,
  plugins: [withoutAssets],
});

// The page does not list the parts that it is made of. The document has them, as it has every operation.
function withoutAssets() {
  const shown = (operation) => operation.get("path") !== "/docs/{asset}";
  const listed = (tag) => tag.update("operations", (operations) => operations.filter(shown));
  const taggedOperations = (original) => (state, ...rest) => original(state, ...rest).map(listed);
  return { statePlugins: { spec: { wrapSelectors: { taggedOperations } } } };
}
