from tasks import ns  # noqa: F401  (bare `fab` looks for a fabfile)
