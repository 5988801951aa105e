"""Requests out and answers in; aiohttp, sockets and TLS stay in here."""
