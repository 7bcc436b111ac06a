"""An artifact on MLServer, which speaks the Open Inference Protocol v2: in the extra ``serve``.

HTTP, gRPC, health and metrics are MLServer's. Here are the model, its checks, and its batches.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from capsnet.artifact import TensorSpec
from capsnet.errors import ConfigError, DataError, DeviceError, ResourceError, first_line
from capsnet.runtime.serving.batches import Batches
from capsnet.runtime.sessions.base import Session
from capsnet.runtime.sessions.images import require_unit_range

try:
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from mlserver import MLModel, MLServer, ModelSettings, Settings
    from mlserver.codecs import NumpyCodec
    from mlserver.errors import InferenceError
    from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor
    from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
    from starlette.responses import Response
except ImportError as error:
    raise DeviceError(
        f"MLServer cannot be imported: {first_line(error)}; install capsnet-export[serve]"
    ) from error

__all__ = ["CapsNetModel", "serve"]

_QUIET = 20  # tenths of a second without a connection, in which balancers see that it is not ready
_LONGEST = 20.0  # seconds after the signal
_DATATYPES = {"float32": "FP32", "uint8": "UINT8"}


class CapsNetModel(MLModel):  # type: ignore[misc]
    """An artifact as MLServer runs it.

    Attributes:
        session: of the artifact, opened before the server starts.
        loaded: called when the model is there.
    """

    session: ClassVar[Session]
    loaded: ClassVar[Callable[[], None]]

    async def load(self) -> bool:
        """Say what it takes and gives."""
        metadata = self.session.metadata
        self.inputs = [_tensor(spec) for spec in metadata.inputs]
        self.outputs = [_tensor(spec) for spec in metadata.outputs]
        self._batches = Batches(self.session)
        type(self).loaded()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request.

        Raises:
            InferenceError: if it is not one for this artifact: MLServer answers with 400.
        """
        try:
            images = self._images(payload)
        except DataError as error:
            raise InferenceError(str(error)) from error
        outputs = await self._batches.run(images)
        asked = [output.name for output in payload.outputs or []]
        unknown = [name for name in asked if name not in outputs]
        if unknown:
            raise InferenceError(f"there is no output {unknown[0]}; it gives {', '.join(outputs)}")
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            id=payload.id,
            outputs=[NumpyCodec.encode_output(name, outputs[name]) for name in asked or outputs],
        )

    def _images(self, payload: InferenceRequest) -> npt.NDArray[np.float32]:
        spec = self.session.metadata.inputs[0]
        expected = f"{_DATATYPES[spec.dtype]} {spec.name} {list(spec.shape)}"
        names = [given.name for given in payload.inputs]
        if names != [spec.name]:
            raise DataError(f"the request has the inputs {names}, expected one: {expected}")
        [given] = payload.inputs
        found = f"{given.datatype} {given.name} {list(given.shape)}"
        sizes = list(given.shape)
        right = given.datatype == _DATATYPES[spec.dtype] and sizes[1:] == list(spec.shape[1:])
        if not right or sizes[0] < 1:
            raise DataError(f"the request has {found}, expected {expected}")
        try:
            images: npt.NDArray[np.float32] = np.asarray(
                NumpyCodec.decode_input(given), dtype=spec.dtype
            ).reshape(sizes)
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(f"the data of {found} do not fit: {first_line(error)}") from error
        if not np.isfinite(images).all():
            raise DataError("the request holds values that are not finite")
        if images.dtype != np.uint8 and not self.session.metadata.is_own:
            require_unit_range(images)  # here, where it is the answer to this request alone
        return self._channels_first(images)

    def _channels_first(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """As sessions take values 0..1; bytes they take as the file does."""
        if self.session.metadata.layout == "nhwc" and images.dtype != np.uint8:
            return images.transpose(0, 3, 1, 2)
        return images


def serve(session: Session, name: str, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve an artifact until SIGINT or SIGTERM; requests that are under way are answered.

    Args:
        session: the artifact, opened with its certificate.
        name: of the model, as clients call it.
        host: address to listen on.
        port: for HTTP; gRPC has the next one, metrics the one after.

    Raises:
        ConfigError: if the artifact takes several inputs.
        ResourceError: if a port is taken.
    """
    if len(session.metadata.inputs) > 1:
        names = ", ".join(spec.name for spec in session.metadata.inputs)
        raise ConfigError(f"the artifact takes {names}, and one input alone can be served")
    CapsNetModel.session = session
    for number in range(port, port + 3):
        _check_free(host, number)
    settings = Settings(
        debug=False,
        parallel_workers=0,
        host=host,
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
    )
    model = ModelSettings(name=name, implementation=CapsNetModel)
    asyncio.run(_serve(settings, model))


def _check_free(host: str, port: int) -> None:
    """Raise ResourceError where a port cannot be had: the web server would end the process."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ResourceError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; give another --port, "
            "whose next two are free, too"
        ) from error


async def _serve(settings: Settings, model: ModelSettings) -> None:
    server = MLServer(settings)
    app = server._rest_server._app
    app.add_exception_handler(RequestValidationError, _bad_request)
    departure = _Departure(server)
    app.add_middleware(BaseHTTPMiddleware, dispatch=departure.answer)
    CapsNetModel.loaded = departure.expect_signals
    await server.start([model])


class _Departure:
    """The end of a server in an order that loses no request.

    Every answer ends its connection, and the server says that it is not ready; once nobody connects
    any more, it stops. A socket that closes at once would reset who is about to be accepted.

    Args:
        server: it is running when a signal comes.
    """

    def __init__(self, server: MLServer) -> None:
        self._server = server
        self._task: asyncio.Task[None] | None = None

    def expect_signals(self) -> None:
        """Handle SIGINT and SIGTERM, in place of the web server's own handlers."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._begin)

    async def answer(self, request: Request, respond: RequestResponseEndpoint) -> Response:
        """Answer a request, as the first or last on its connection."""
        leaving = self._task is not None
        if leaving and request.url.path == "/v2/health/ready":
            answer: Response = JSONResponse({"error": "the server is about to end"}, 503)
        else:
            answer = await respond(request)
        if self._task is not None:
            answer.headers["connection"] = "close"
        return answer

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        web = self._server._rest_server._server
        quiet = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST):
                while quiet < _QUIET:
                    await asyncio.sleep(0.1)
                    quiet = 0 if web.server_state.connections else quiet + 1
        await self._server.stop(signal.SIGTERM)


async def _bad_request(_: Request, error: Exception) -> JSONResponse:
    """FastAPI itself answers with 422; the protocol says 400."""
    return JSONResponse({"error": first_line(error)}, status_code=400)


def _tensor(spec: TensorSpec) -> MetadataTensor:
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return MetadataTensor(name=spec.name, datatype=_DATATYPES[spec.dtype], shape=shape)
