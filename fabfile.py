from tasks import *  # noqa: F403  (bare `fab` looks for a fabfile)
