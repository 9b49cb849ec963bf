"""`naruto` with a temporary Prefect server of its own, whatever server the tests' environment names."""

from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cli import main

if __name__ == "__main__":
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        main()
