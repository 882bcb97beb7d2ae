"""Whether the model hub can be reached, found out in seconds."""

import ssl
from functools import cache
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

TIMEOUT_S = 5.0


@cache
def hub_answers() -> bool:
    """Asks the hub once whether it is there.

    Without a hub transformers asks six times for each file of a model, about a minute in all, before it gives up: too
    long to wait for the news that a path was mistyped. What is in the cache is found without a hub.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=TIMEOUT_S).close()
    except HTTPError:
        return True  # an answer, though not a friendly one
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # certificates are for the hub's own client to judge
    except OSError:
        return False
    return True
