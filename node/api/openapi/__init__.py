"""GET /openapi.json: OpenAPI 3.1, made from the very types that validate and answer."""
