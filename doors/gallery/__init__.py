"""`GET /gallery`: what was made, to be looked at. Off unless `I2V_GALLERY_TOKEN` is set; it reads, and never writes.

guard    who may look: token, cookie, wrong tries     routes   the addresses; all else hangs on them
filters  what is wanted, as it stands in an address   pages    templates and security headers
shelf    cards of what ended lately, bounded          details  all that is known of one of them

Nothing here takes a key of the bucket from a request: an address names a run's page and a number on it, and what is
signed is what that page names.
"""
