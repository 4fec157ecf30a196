"""FastAPI endpoints that do the least for the same requests: the bounds that the service is compared with.

`python -m bench.comparators PORT [FILE]` serves them on loopback with the service's settings for uvicorn. Sending
reads and validates a message, and stores nothing. FILE holds the service's answers to reads by path, as JSON. Each is
served as its model from memory, and below `/bytes` as ready bytes.
"""

import json
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Response

from app.schemas.sending import SendAccepted, SmsSend
from app.schemas.views import ConversationView, MessageDetail, MessageView
from bench.reads import AS_BYTES, READS

_MODELS = {"conversations": list[ConversationView], "page": list[MessageView], "message": MessageDetail}


def create_app(answers: dict[str, Any]) -> FastAPI:
    """The endpoint for sending, and two for each read in `answers`."""
    app = FastAPI()
    app.post("/api/messages/sms")(send_sms)
    for name, path in READS.items():
        if path not in answers:
            continue
        model: Any = _MODELS[name]
        is_list = isinstance(answers[path], list)
        single = model.__args__[0] if is_list else model
        made = [_model(single, one) for one in answers[path]] if is_list else _model(single, answers[path])
        ready = json.dumps(answers[path], separators=(",", ":")).encode()
        place = path.partition("?")[0]
        app.add_api_route(place, _returning(made), response_model=model)
        app.add_api_route(AS_BYTES + place, _returning_bytes(ready))
    return app


async def send_sms(message: SmsSend) -> SendAccepted:
    return SendAccepted(message_id="1", provider_message_id=None, conversation_id=1)


def _returning(answer: Any) -> Any:
    async def read() -> Any:
        return answer

    return read


def _returning_bytes(answer: bytes) -> Any:
    async def read() -> Response:
        return Response(answer, media_type="application/json")

    return read


def _model(model: Any, shown: dict[str, Any]) -> Any:
    """The model behind an answer. The answer's name of a field is not always the one that the model reads."""
    names = {
        field.serialization_alias or name: field.validation_alias or name
        for name, field in model.model_fields.items()
    }
    return model.model_validate({names[name]: value for name, value in shown.items()})


if __name__ == "__main__":
    uvicorn.run(
        create_app(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")) if len(sys.argv) > 2 else {}),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_config=None,
        access_log=False,
        server_header=False,
    )
