"""
The only place that waits for the outside world.

`session` leads every request for Amplitude through its gates: those of `limits`, then
`wire`. On top of it, `download` brings files to `disk`, or to rows; `writes` brings ids to
Amplitude.
"""
