"""The official client, unchanged, through the gateway."""

import asyncio
import time

import openai
import pytest

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
MESSAGES = [{"role": "user", "content": "Say something short."}]
DEADLINE = 20


@pytest.fixture(scope="session")
def client(gateway):
    # Without retries of its own, so that a failure shows.
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=30)


def eventually(look, expected):
    """Statistics are a fraction of a second behind."""
    end = time.monotonic() + DEADLINE
    while (found := look()) != expected and time.monotonic() < end:
        time.sleep(0.05)
    assert found == expected


def test_a_chat_completion_is_answered_by_a_pod(client):
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=5)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert raw.headers["x-inference-pod"] in ("pod-1", "pod-2")


def test_a_stream_ends_with_its_usage(client, gateway):
    before = gateway.total("inference_objective_output_tokens_sum", model_name=MODEL)
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=20, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 20
    eventually(lambda: gateway.total("inference_objective_output_tokens_sum", model_name=MODEL) - before >= 20, True)


def test_completions_and_their_streams(client):
    answer = client.completions.create(model=MODEL, prompt="one two three", max_tokens=4)
    assert answer.choices[0].text and answer.usage.completion_tokens == 4
    chunks = list(client.completions.create(model=MODEL, prompt="one two three", max_tokens=4, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_embeddings_in_both_encodings(client):
    # The client asks for base64 unless told otherwise.
    packed = client.embeddings.create(model=MODEL, input=["one", "two"])
    plain = client.embeddings.create(model=MODEL, input=["one", "two"], encoding_format="float")
    for answer in (packed, plain):
        assert len(answer.data) == 2
        assert sum(number * number for number in answer.data[1].embedding) == pytest.approx(1, abs=1e-3)
    assert packed.usage.prompt_tokens > 0


def test_responses_and_their_events(client):
    answer = client.responses.create(model=MODEL, input="Say something.", max_output_tokens=6)
    assert answer.output_text and answer.usage.output_tokens == 6
    events = list(client.responses.create(model=MODEL, input="Say something.", max_output_tokens=6, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage.output_tokens == 6


def test_models_are_listed(client):
    assert MODEL in [model.id for model in client.models.list()]


def test_refusals_of_the_gateway_are_the_clients_own_error_types(client, gateway):
    before = gateway.total("inference_objective_request_error_total", error_code="BadRequest")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="", messages=MESSAGES)
    error = caught.value
    assert (error.status_code, error.type, error.param, error.code) == (400, "invalid_request_error", "model", "invalid_model")
    assert "model" in error.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body={"messages": MESSAGES}, cast_to=object)
    assert caught.value.code == "missing_model"
    eventually(lambda: gateway.total("inference_objective_request_error_total", error_code="BadRequest") - before, 2)


def test_refusals_of_the_pod_pass_unchanged(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no/such-model", messages=MESSAGES)
    assert caught.value.status_code == 404 and "no/such-model" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=10**6)
    assert caught.value.param == "max_tokens"


def test_a_stream_that_is_closed_early_is_cancelled(client, gateway):
    before = gateway.total("inference_objective_request_error_total", error_code="Cancelled")
    gateway.fault_every_pod({"kind": "stall", "after_events": 2})
    stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=50, stream=True)
    next(iter(stream))
    eventually(lambda: gateway.total("inference_objective_running_requests", model_name=MODEL), 1)
    stream.close()
    gateway.fault_every_pod({"kind": "none"})
    eventually(lambda: gateway.total("inference_objective_running_requests", model_name=MODEL), 0)
    eventually(lambda: gateway.total("inference_objective_request_error_total", error_code="Cancelled") - before, 1)


def test_many_at_once(gateway):
    async def crowd():
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
            async def one(number):
                raw = await client.chat.completions.with_raw_response.create(
                    model=MODEL, messages=[{"role": "user", "content": f"Question {number}"}], max_tokens=3
                )
                return raw.headers["x-inference-pod"], raw.parse().usage.completion_tokens

            return await asyncio.gather(*map(one, range(64)))

    answers = asyncio.run(crowd())
    assert {tokens for _, tokens in answers} == {3}
    assert {pod for pod, _ in answers} == {"pod-1", "pod-2"}
