"""Who is asked: Gemini through google-genai, any server of OpenAI's protocol, a file of traces.

A model of our own and the program of the embedded default are made where they may be imported.
A teacher gets the bare question, with no system prompt (s1: `data/gemini.py`).
"""

import asyncio
import functools
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from s1jax.config import Data
from s1jax.curation_config import Teacher
from s1jax.data.asked import (
    OPENAI_HOST,
    Asked,
    Passing,
    Prompt,
    Refused,
    Reply,
    Unknown,
    http_error,
    key_of,
    name_of,
    said,
    settings_of,
)
from s1jax.data.examples import load_examples
from s1jax.data.store import read_store
from s1jax.types import Trace, UserError, question_id

_BROKEN = (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError)


# --- Gemini ---


class Gemini(Asked):
    """Gemini through google-genai, thinking asked for.

    What today's API returns of its thinking are summaries, and they are marked so. The models of
    s1's time (`gemini-2.0-flash-thinking-exp`) return the thinking itself, the first of two parts.
    """

    def __init__(self, cfg: Teacher):
        self.name, self.settings = name_of(cfg), settings_of(cfg)
        self._cfg, self._key = cfg, key_of(cfg)
        self._configs: dict[str | None, Any] = {}  # by the system prompt
        self._session: Any = None
        self._client: Any = None
        self._thinks_aloud = "thinking-exp" in cfg.model
        self._config(None)  # what takes long is loaded before the first is asked

    def _open(self) -> None:
        """Makes the client, in the loop that will use it."""
        import aiohttp
        from google import genai
        from google.genai import types

        # The client's own session looks for proxies and passwords before every request.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._cfg.concurrency),
            trust_env=bool(getproxies()),
        )
        options = types.HttpOptions(
            base_url=self._cfg.base_url,
            api_version="v1beta",  # thoughts are asked for there, whatever the client's own default
            timeout=round(self._cfg.timeout_s * 1000),
            # Otherwise the client repeats what a broken connection may have cost, behind our back.
            retry_options=types.HttpRetryOptions(attempts=1),
            aiohttp_client=self._session,
        )
        self._client = genai.Client(api_key=self._key, vertexai=False, http_options=options)

    def _config(self, system: str | None) -> Any:
        from google.genai import types

        if system not in self._configs:
            thinking = types.ThinkingConfig(
                include_thoughts=True, thinking_budget=self._cfg.thinking_tokens
            )
            self._configs[system] = _quick(types.GenerateContentConfig)(
                system_instruction=system,
                temperature=self._cfg.temperature,
                max_output_tokens=self._cfg.max_tokens,
                thinking_config=None if self._thinks_aloud else thinking,
                # A call is one request, as the accounts and the pace count.
                automatic_continuation=False,
                automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
                # The client looks at every field of a reply; five of them are wanted.
                should_return_http_response=True,
            )
        return self._configs[system]

    async def ask(self, prompt: Prompt) -> Reply:
        """See asked.Asked."""
        from google.genai import types
        from google.genai.errors import APIError

        if self._client is None:
            self._open()
        part = _quick(types.Part)(text=prompt.text)
        try:
            response = await self._client.aio.models.generate_content(
                model=self._cfg.model,
                contents=_quick(types.Content)(role="user", parts=[part]),
                config=self._config(prompt.system),
            )
        except APIError as error:
            headers = getattr(error.response, "headers", None) or {}
            text = said(f"HTTP {error.code}: {error.message or error.details}", self._key)
            raise http_error(
                self.name, self._cfg, error.code, text, headers, error.details
            ) from None
        except (asyncio.CancelledError, TimeoutError):
            raise
        except Exception as error:  # broken connections: httpx2's, aiohttp's, ...
            raise _broken_off(error, self._key) from None
        try:
            return self._reply(json.loads(response.sdk_http_response.body))
        except _BROKEN:
            raise Passing("the reply is broken off, or none of generateContent") from None

    def _reply(self, body: Any) -> Reply:
        """What a body of generateContent says; Refused if the question is blocked."""
        usage = body.get("usageMetadata") or {}
        thought = _count(usage.get("thoughtsTokenCount"))
        answered = _count(usage.get("candidatesTokenCount"))
        counts: dict[str, Any] = {
            "version": _string(body.get("modelVersion")),
            "prompt_tokens": _count(usage.get("promptTokenCount")),
            "thinking_tokens": thought,
            "answer_tokens": answered,
            "written_tokens": (thought or 0) + (answered or 0),
        }
        blocked = (body.get("promptFeedback") or {}).get("blockReason")
        if blocked:
            raise Refused(f"the question is blocked: {blocked}", charged=True)
        if not body.get("candidates"):
            return Reply("", "", "incomplete", "the reply has no candidates", **counts)
        candidate = body["candidates"][0]
        parts = (candidate.get("content") or {}).get("parts") or []
        said_by = [(bool(part.get("thought")), _string(part.get("text"))) for part in parts]
        texts = [(thought, text) for thought, text in said_by if text]
        if self._thinks_aloud and len(texts) >= 2 and not any(thought for thought, _ in texts):
            texts[0] = (True, texts[0][1])
        thinking = "".join(text for thought, text in texts if thought)
        answer = "".join(text for thought, text in texts if not thought)
        summary = bool(thinking) and not self._thinks_aloud
        why = _string(candidate.get("finishReason")) or "nothing"
        finish, detail = {
            "STOP": ("stop", ""),
            "MAX_TOKENS": ("length", "cut at its limit"),
        }.get(why, ("blocked", f"stopped by {why}"))
        return Reply(thinking, answer, finish, detail, summary, **counts)

    async def close(self) -> None:
        """See asked.Asked."""
        if self._client is not None:
            await self._client.aio.aclose()
            await self._session.close()


@functools.cache
def _quick(model: Any) -> Any:
    """One of the client's models that costs no time; it must not be changed.

    Before every request the client copies its config twice, and asks models as if they were dicts
    for each of their fields: pydantic goes through all of them, each time, to say no.
    """
    shortcuts = {"__contains__": lambda *_: False, "__deepcopy__": lambda self, _memo=None: self}
    return type(model.__name__, (model,), shortcuts)


def _broken_off(error: Exception, key: str | None) -> Passing:
    """A connection that failed; where there never was one nothing was asked, nothing is charged."""
    import aiohttp

    # The first of them also where a name has no address, and where TLS does not come about.
    before = (aiohttp.ClientConnectorError, aiohttp.InvalidURL)
    text = said(f"{type(error).__name__}: {error}", key)
    return Passing(text, charged=not isinstance(error, before))


# --- Servers of OpenAI's protocol ---


class OpenAI(Asked):
    """A server of OpenAI's chat completions: vLLM, DeepSeek, llama.cpp, OpenRouter, our own.

    Thinking is `reasoning_content` (or `reasoning`), or what the text has before `</think>`.
    """

    def __init__(self, cfg: Teacher):
        assert cfg.base_url is not None
        self.name, self.settings = name_of(cfg), settings_of(cfg)
        self._cfg, self._key = cfg, key_of(cfg)
        self._url = cfg.base_url.rstrip("/") + "/chat/completions"
        if urlsplit(self._url).scheme not in ("http", "https"):
            raise UserError(f"base_url={cfg.base_url} must begin with http:// or https://")
        self._proxy = _proxy_of(self._url)
        self._session: Any = None

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
        body: dict[str, Any] = {
            "model": self._cfg.model,
            "messages": [*system, {"role": "user", "content": prompt.text}],
        }
        # OpenAI's own reasoning models refuse the name that all the other servers know.
        own = urlsplit(self._url).hostname == OPENAI_HOST
        limit = "max_completion_tokens" if own else "max_tokens"
        given = {
            "temperature": self._cfg.temperature,
            limit: self._cfg.max_tokens,
            "thinking_token_budget": self._cfg.thinking_tokens,
        }
        return body | {name: value for name, value in given.items() if value is not None}

    async def ask(self, prompt: Prompt) -> Reply:
        """See asked.Asked."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=aiohttp.ClientTimeout(total=self._cfg.timeout_s),
                connector=aiohttp.TCPConnector(limit=self._cfg.concurrency),
            )
        try:
            asked = self._session.post(self._url, json=self._body(prompt), proxy=self._proxy)
            async with asked as response:
                raw = await response.read()
                status, headers = response.status, response.headers
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise _broken_off(error, self._key) from None
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        if status != 200:
            text = said(f"HTTP {status}: {_message(body, raw)}", self._key)
            raise http_error(self.name, self._cfg, status, text, headers, body)
        try:
            return _completion(body)
        except _BROKEN:
            raise Passing("the reply is broken off, or no chat completion") from None

    async def close(self) -> None:
        """See asked.Asked."""
        if self._session is not None:
            await self._session.close()


def _proxy_of(url: str) -> str | None:
    """The environment's proxy for this address.

    aiohttp would find it as well, but take a password out of ~/.netrc along, against our key.
    """
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme != "http":
        raise UserError(f"{parts.scheme}_proxy in the environment must begin with http://")
    return proxy


def _completion(body: Any) -> Reply:
    """The reply in a chat completion; KeyError and its like if it is none."""
    choice = body["choices"][0]
    message, usage = choice["message"], body.get("usage") or {}
    aside, content = _content(message.get("content"))
    thinking = _string(message.get("reasoning_content")) or _string(message.get("reasoning"))
    thinking = thinking or aside
    why = choice.get("finish_reason")
    if not thinking and ("</think>" in content or _thinks_on(content, why)):
        thinking, _, content = content.partition("</think>")
        thinking = thinking.strip().removeprefix("<think>").strip()
    finish, detail = {
        "length": ("length", "cut at its limit"),
        "content_filter": ("blocked", "stopped by content_filter"),
        "error": ("incomplete", "stopped by an error"),  # as OpenRouter says it
    }.get(why, ("stop", ""))
    thought = _count((usage.get("completion_tokens_details") or {}).get("reasoning_tokens"))
    written = _count(usage.get("completion_tokens"))
    answered = None if written is None else max(0, written - (thought or 0))
    if thinking and not thought:  # it is in the same count, and nobody says how much of it
        thought = answered = None
    return Reply(
        thinking,
        content.strip() if thinking else content,
        finish,
        detail,
        version=_string(body.get("model")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        thinking_tokens=thought,
        answer_tokens=answered,
        written_tokens=written,
    )


def _content(content: Any) -> tuple[str, str]:
    """Thinking and text of a message, which is one text or a list of parts with types."""
    if not isinstance(content, list):
        return "", _string(content)
    thinking = (_part(part) for part in content if part["type"] in ("thinking", "reasoning"))
    return "".join(thinking), "".join(_part(part) for part in content if part["type"] == "text")


def _part(part: Any) -> str:
    """The text of a part, which may have parts itself."""
    if isinstance(part, list):
        return "".join(map(_part, part))
    if not isinstance(part, dict):
        return _string(part)
    names = ("text", "thinking", "reasoning", "content", "summary")
    return next((_part(part[name]) for name in names if part.get(name)), "")


def _thinks_on(content: str, why: Any) -> bool:
    """Whether a text that was cut never came to the end of its thinking."""
    return why == "length" and content.lstrip().startswith("<think>")


def _string(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError
    return value or ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _message(body: Any, raw: bytes) -> str:
    error = body.get("error", body) if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or raw.decode(errors="replace"))  # whole: half a key would not be found


# --- Stored traces ---


class Replay(Asked):
    """Traces of a file: examples as training reads them, or another workdir's traces.db.

    Of a store with more than one teacher the model names one, `path/traces.db#gemini:NAME`.
    """

    varies = False

    def __init__(self, cfg: Teacher):
        self.name, self.settings = name_of(cfg), settings_of(cfg)
        self._replies: dict[tuple[str, int], Reply] = {}  # by question and sample
        before, mark, teacher = cfg.model.partition(".db#")
        path = Path(f"{before}.db" if mark else cfg.model).expanduser()
        if path.suffix == ".db":
            for trace in read_store(path, teacher):
                self._replies[trace.question_id, trace.sample] = _replayed(trace)
            return
        try:
            examples = load_examples(Data(path=str(path)))
        except UserError as error:
            raise UserError(str(error).replace("data.path=", f"{self.name}: ")) from error
        for example in examples:
            reply = Reply(example.thinking, example.answer, "stop")
            self._replies.setdefault((question_id(example.question), 0), reply)

    async def ask(self, prompt: Prompt) -> Reply:
        """See asked.Asked."""
        reply = self._replies.get((prompt.id, prompt.sample))
        if reply is None:
            raise Unknown(f"{self.name} has no trace of this question")
        return reply


def _replayed(trace: Trace) -> Reply:
    return Reply(
        trace.thinking,
        trace.answer,
        trace.finish,
        is_summary=trace.is_summary,
        version=trace.version or trace.teacher,
        prompt_tokens=trace.prompt_tokens,
        thinking_tokens=trace.thinking_tokens,
        answer_tokens=trace.answer_tokens,
    )
