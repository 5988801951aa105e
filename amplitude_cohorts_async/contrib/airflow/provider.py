"""What Airflow is told of this package; it asks at each start, so nothing is imported."""

__all__ = ("get_provider_info",)


def get_provider_info() -> dict[str, object]:
    """Return the connection type, and where the operators are."""
    # Not `__package__`: Airflow imports the class when a connection is first used.
    home = "amplitude_cohorts_async.contrib.airflow"
    name = "Amplitude Cohorts"

    def of(*modules: str) -> list[dict[str, object]]:
        paths = [f"{home}.{module}" for module in modules]
        return [{"integration-name": name, "python-modules": paths}]

    return {
        # That of the distribution, or every command of Airflow's fails.
        "package-name": "amplitude-cohorts-async",
        "name": name,
        "description": "Export, upload and sync Amplitude's behavioral cohorts.",
        "integrations": [
            {
                "integration-name": name,
                "external-doc-url": (
                    "https://amplitude.com/docs/apis/analytics/behavioral-cohorts"
                ),
                "tags": ["service"],
            }
        ],
        "connection-types": [
            {
                "connection-type": "amplitude_cohorts",
                "hook-class-name": f"{home}.hook.AmplitudeCohortsHook",
                "hook-name": name,
            }
        ],
        "hooks": of("hook"),
        "operators": of("exports", "syncs", "uploads"),
        "sensors": of("sensor"),
        "triggers": of("triggers"),
    }
