"""
Input and output: HTTP, files, threads and waiting.

`http` sends every request for Amplitude as `limits` allow; `download` brings files to
`sinks`, or to rows; `fast` is a faster way to receive a body.
"""
