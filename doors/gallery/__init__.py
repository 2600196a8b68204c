"""`GET /gallery`: browse recent results. Off unless `I2V_GALLERY_TOKEN` is set. Read-only.

access    token, cookie, failed logins            routes     the addresses and their handlers
filters   filters and cursor in the URL           rendering  templates and security headers
listing   one page of recent results              details    everything known about one result

No request names a bucket key: a URL names a run's page and an item on it, and only what that page lists is signed.
"""
