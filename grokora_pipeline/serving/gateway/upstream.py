"""Calls that no champion answers go to another API, OpenAI's or Anthropic's kind, with the caller's own key.

The key passes through: it is neither kept nor logged nor recorded.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.gateway.protocol import ApiError
from grokora_pipeline.settings import http_options

# what SDKs read: their own request ids, and when to try again
_PASSED_BACK = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "request-id")
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)  # as long as the openai package waits


class Upstream:
    """An upstream API below `url`, which usually ends in `/v1`. `model` stands in for names that only we know."""

    def __init__(self, url: str, model: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise GrokoraError(f"--upstream {url} is no http(s) address; give one such as https://api.x.ai/v1.")
        self._url, self.model = url.rstrip("/"), model
        # one client for all: its pool keeps connections, and a TLS handshake costs more than a short answer's overhead
        self._client = httpx.AsyncClient(timeout=_TIMEOUT, **http_options(url))

    @asynccontextmanager
    async def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """Forward a request to a path below the URL; the response's body is yet to be read. `headers` hold the key.

        Raises ApiError 502 if nobody answers, or only by a redirect.
        """
        # in the encoding in which Starlette reads them: httpx would take ASCII alone
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        raw.append((b"content-type", b"application/json"))
        request = self._client.build_request("POST", f"{self._url}/{path}", content=body, headers=raw)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise unreachable(error) from error
        try:
            if response.has_redirect_location:  # never followed: the key would go to whoever the upstream names
                location = response.headers["location"]
                text = f"The upstream redirects to {location}; give `--upstream` the address that answers itself."
                raise ApiError(502, text, code="upstream_redirects")
            yield response
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def unreachable(error: Exception) -> ApiError:
    """What the caller is told if the upstream fails."""
    return ApiError(502, f"The upstream did not answer ({type(error).__name__}).", code="upstream_unreachable")


def passed_back(response: httpx.Response) -> dict[str, Any]:
    """The headers that the caller gets to see; httpx decodes what Starlette can only encode as Latin-1."""
    response.headers.encoding = "latin-1"
    return {name: response.headers[name] for name in _PASSED_BACK if name in response.headers}
