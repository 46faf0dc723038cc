"""What a request meets: limits on its connection, the middleware around BentoML's, the endpoints and their document."""
