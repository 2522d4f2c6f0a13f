"""One call to a cluster: attempts, what each one showed, whether to try again, and the error."""
