"""launchd's error numbers, as `launchctl error` explains them (recording COMPOSED_error_messages)."""

EPERM, ENOENT, ESRCH, EIO, EINPROGRESS, EALREADY = 1, 2, 3, 5, 36, 37
BAD_PLIST, NO_LABEL, NO_PROGRAM = 109, 110, 111
NO_DOMAIN, NO_SERVICE, NO_USER = 112, 113, 114
DISABLED, BAD_PATH, NOT_SUPPORTED, BLOCKED = 119, 122, 125, 161
