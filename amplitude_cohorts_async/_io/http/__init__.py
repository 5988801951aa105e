"""HTTP: requests and answers. aiohttp, sockets and TLS are not used elsewhere."""
