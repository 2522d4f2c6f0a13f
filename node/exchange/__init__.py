"""One request on its way to an answer, and the services that its handler works with."""
