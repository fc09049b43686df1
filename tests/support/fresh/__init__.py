"""Commands of this checkout on a minimal Debian or Ubuntu, as somebody who has just installed one."""
