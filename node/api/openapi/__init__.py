"""GET /openapi.json: OpenAPI 3.1, generated from the types that validate requests and encode
answers.
"""
