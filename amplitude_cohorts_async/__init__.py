"""
Async client for Amplitude's Behavioral Cohorts API.
"""
