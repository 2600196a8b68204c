"""What listens: the routes except the gallery's, and what protects them.

app        POST /s3, /healthz, /metrics        server        uvicorn, with limits for connections
callbacks  POST /apixo/…                       request_body  read a body with limits
tokens     compare tokens, slow down guessing
"""
