"""Writes automations.yaml to the Prefect server at PREFECT_API_URL, over those of the same name."""

import asyncio
import sys
from pathlib import Path

import yaml
from httpx import HTTPError  # what Prefect's client raises, which brings it
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore

AUTOMATIONS = Path(__file__).with_suffix(".yaml")


def read_automations() -> list[AutomationCore]:
    """What automations.yaml asks for."""
    return [AutomationCore.model_validate(one) for one in yaml.safe_load(AUTOMATIONS.read_text())["automations"]]


async def write_automations(wanted: list[AutomationCore]) -> None:
    """Create or replace each by its name; one that somebody switched off stays off."""
    async with get_client() as client:
        for automation in wanted:
            there = await client.read_automations_by_name(automation.name)
            if there:
                enabled = there[0].enabled
                await client.update_automation(there[0].id, automation.model_copy(update={"enabled": enabled}))
            else:
                await client.create_automation(automation)


def main() -> None:
    """Write them; one sentence and status 1 when the server cannot be reached or refuses."""
    try:
        asyncio.run(write_automations(read_automations()))
    except HTTPError as error:
        sys.exit(f"error: the automations were not written: {error}")


if __name__ == "__main__":
    main()
