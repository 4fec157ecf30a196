"""The comparison for reads: FastAPI endpoints that answer the same lists, as the same models, from memory.

`python -m bench.memory PORT FILE` serves on loopback. FILE holds the service's answers by path, as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from app.schemas.views import ConversationView, MessageDetail, MessageView
from bench.reads import READS

_MODELS = {"conversations": list[ConversationView], "page": list[MessageView], "message": MessageDetail}


def create_app(answers: dict[str, Any]) -> FastAPI:
    """One GET endpoint for each read, which returns prepared models."""
    app = FastAPI()
    for name, path in READS.items():
        model: Any = _MODELS[name]
        is_list = isinstance(answers[path], list)
        single = model.__args__[0] if is_list else model
        made = [_model(single, one) for one in answers[path]] if is_list else _model(single, answers[path])
        app.add_api_route(path.partition("?")[0], _returning(made), response_model=model)
    return app


def _returning(answer: Any) -> Any:
    async def read() -> Any:
        return answer

    return read


def _model(model: Any, shown: dict[str, Any]) -> Any:
    """The model behind an answer. The answer's name of a field is not always the one that the model reads."""
    if "attempts" in shown:
        shown = shown | {"attempts": []}
    names = {
        field.serialization_alias or name: field.validation_alias or name
        for name, field in model.model_fields.items()
    }
    return model.model_validate({names[name]: value for name, value in shown.items()})


if __name__ == "__main__":
    uvicorn.run(
        create_app(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_config=None,
        access_log=False,
        server_header=False,
    )
