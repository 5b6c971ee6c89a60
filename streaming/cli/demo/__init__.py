"""`streaming demo`: real recordings, a slow web server, a tiny model, and the cost of waiting.

`recordings` unpacks the data, `server` serves it with latency, `features` and `model` are the workload, `plain` is the
loop that most people write first, `run` puts them together.
"""
