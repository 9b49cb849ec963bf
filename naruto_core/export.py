"""Handing an adapter to the world: for now, pushing it to a model hub."""

from pathlib import Path

from naruto_core.errors import ServiceFailed


def push_adapter(folder: Path, repository: str, private: bool, tag: str, token: str) -> str:
    """Upload the safetensors files of `folder` to the model `repository`, tag that state, return its address.

    Doing it again is safe: files that are there are not sent twice, an existing tag stays. Raises
    ServiceFailed when the hub cannot be reached or refuses.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi(token=token)
    try:
        address = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=["*.safetensors"], commit_message=f"run {tag}"
        )
        hub.create_tag(repository, tag=tag, exist_ok=True)
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        why = " ".join(str(error).split())
        raise ServiceFailed(
            f"pushing to {repository} failed: {why}; the adapter itself is safe in {folder}."
        ) from error
    return str(address)
