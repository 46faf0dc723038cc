// Swagger UI for the service's own OpenAPI document. "Execute" sends the API key that was entered here or on the page.

import { askForKey } from "./key.js";
import { ask, authorization, Failure } from "./service.js";

try {
  const { answer: spec } = await ask("docs.json", {}, { askForKey });
  window.SwaggerUIBundle({
    spec,
    dom_id: "#operations",
    deepLinking: true,
    validatorUrl: null, // by default Swagger UI sends the document's address to its makers
    requestInterceptor: (request) => {
      request.headers = { ...authorization(), ...request.headers };
      return request;
    },
  });
} catch (error) {
  if (!(error instanceof Failure)) throw error;
  const problem = document.getElementById("problem");
  problem.textContent = `${error.message} Then reload this page.`;
  problem.hidden = false;
}
