"""Models of the outside: S3 and the provider, how they fail, and what one process reaches them with."""
