"""Parts of `RedisLimiter`."""
