"""Upload of a checkpoint's folder to the Hugging Face hub."""

from pathlib import Path

from prunescope.pipelines.core.errors import ComputationError, InputError


def require_access(name: str) -> None:
    """Refuse an invalid name of a repository, and a missing or wrong token, before anything is computed.

    Raises:
        InputError: the name is wrong, or the hub does not know the user.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import validate_repo_id

    if "/" not in name:
        raise InputError(f"--push-to-hub {name!r}: write USER/NAME or ORGANIZATION/NAME")
    try:
        validate_repo_id(name)
        HfApi().whoami()
    except (HTTPError, OSError, ValueError) as error:  # ValueError: the name, or a token that no header can hold
        fix = "the name is USER/NAME, and `hf auth login` or HF_TOKEN gives a token"
        raise InputError(f"--push-to-hub {name!r}: {_line(error)}; {fix}") from error


def push(folder: Path, name: str) -> str:
    """Upload a folder as one commit, into a new private repository if there is none; return the commit's address.

    Raises:
        ComputationError: the hub refused; the folder is unchanged.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        api = HfApi()
        api.create_repo(name, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by prunescope checkpoint")
    except (HTTPError, OSError) as error:
        raise ComputationError(f"{folder} is complete, but {name} is not: {_line(error)}") from error
    return str(commit.commit_url)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
