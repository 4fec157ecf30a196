"""The cost of FastAPI alone: an endpoint that reads and validates the same message, and stores nothing.

`python -m bench.empty PORT` serves it on loopback with the service's settings for uvicorn.
"""

import sys

import uvicorn
from fastapi import FastAPI

from app.schemas.sending import SendAccepted, SmsSend

app = FastAPI()


@app.post("/api/messages/sms")
async def send_sms(message: SmsSend) -> SendAccepted:
    return SendAccepted(message_id="1", provider_message_id=None, conversation_id=1)


if __name__ == "__main__":
    uvicorn.run(
        "bench.empty:app",
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_config=None,
        access_log=False,
        server_header=False,
    )
