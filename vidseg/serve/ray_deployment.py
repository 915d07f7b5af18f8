"""The server as a Ray Serve deployment: replicas of one application on the machines of a cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from vidseg.engine.trained import TrainedModel
from vidseg.serve.application import make_application
from vidseg.serve.running import free_port, shown_url, start_logging
from vidseg.serve.serve_options import ReplicaOptions, ServeOptions

__all__ = ["RayServer"]

_NAME = "vidseg"  # of the application in the cluster
_DRAIN_SECONDS = 30.0  # that requests and streams of a replica get when it stops; its jobs go on in another one
_SHORT_REQUESTS = 64  # such as questions for a job, which a replica takes besides predictions and streams

Load = Callable[[], Mapping[str, TrainedModel]]


class RayServer:
    """Replicas of an application on a Ray cluster; Ray starts and stops them by the load, and replaces dead ones.

    Each machine of the cluster must see the models and the store under the same paths. The replicas share the store: a
    request may reach any of them.

    Args:
        load: function that loads the models; called in each replica, so it must be picklable.
        options: limits and batching of each replica; its store is shared.
        replicas: number and size of the replicas, and the cluster.
        token: token of clients; None: none.
        host: address to listen on, on each machine that has replicas.
        port: port; 0: a free one.

    Attributes:
        url: address of the server.

    Raises:
        ImportError: Ray Serve is not installed.
        ValueError: the models cannot be loaded, or the cluster runs another server.
    """

    def __init__(
        self,
        load: Load,
        options: ServeOptions,
        replicas: ReplicaOptions,
        *,
        token: str | None = None,
        host: str = "127.0.0.1",
        port: int = 8000,
    ) -> None:
        with _own_signals():
            try:
                import ray
                from ray import serve
            except ImportError as error:
                raise ImportError(f'--ray needs Ray Serve: pip install "vidseg[ray]" ({error})') from error
            self._ray, self._serve = ray, serve
            self._ended = threading.Event()
            options = replace(options, store=str(Path(options.store).resolve()), shared=True)
            port = port or free_port(host)
            self.url = shown_url(host, port)
            self._connected = self._own_cluster = self._own_serve = self._deployed = False
            try:
                self._connect(replicas)
                self._check_models(load, replicas)
                self._start(host, port)
                self._deploy(_application(serve, load, options, replicas, token))
            except BaseException:
                self.close()
                raise

    def _connect(self, replicas: ReplicaOptions) -> None:
        """Connect to the cluster, or start one on this machine."""
        ray = self._ray
        if ray.is_initialized():
            return
        words = {"log_to_driver": False, "configure_logging": False}
        try:
            if replicas.cluster != "local":
                ray.init(address=replicas.cluster or "auto", **words)
                self._connected = True
                return
        except ConnectionError as error:
            if replicas.cluster is not None or "RAY_ADDRESS" in os.environ:
                raise ValueError(f"the Ray cluster cannot be reached: {_last_line(str(error))}") from error
        # Ray gives workers the lowest priority but four, which is for computations beside others.
        ray.init(address="local", include_dashboard=False, _system_config={"worker_niceness": 0}, **words)
        self._connected = self._own_cluster = True
        for name, wanted in (("CPU", replicas.replica_cpus), ("GPU", replicas.replica_gpus)):
            there = ray.cluster_resources().get(name, 0)
            if wanted > there:
                raise ValueError(f"replica_{name.lower()}s={wanted:g} is more than the {there:g} of this machine")

    def _check_models(self, load: Load, replicas: ReplicaOptions) -> None:
        """Load the models on a machine of the cluster, as a replica does; Ray would try a replica that fails again."""
        if self._own_cluster:
            load()
            return

        def check() -> None:
            load()

        ray = self._ray
        task = ray.remote(num_cpus=replicas.replica_cpus, num_gpus=replicas.replica_gpus, max_calls=1)(check)
        try:
            ray.get(task.remote())
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, (ValueError, OSError, ImportError)):
                raise ValueError(f"a machine of the cluster cannot load the models: {error.cause}") from error
            raise

    def _start(self, host: str, port: int) -> None:
        """Start the proxies, which take the connections on each machine with replicas."""
        serve = self._serve
        before = serve.status()
        self._own_serve = not before.proxies
        if _NAME in before.applications:
            raise ValueError(f"the cluster already runs the application {_NAME!r}; stop its command first")
        try:
            serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
        except (ValueError, serve.exceptions.RayServeException) as error:
            raise ValueError(f"the cluster runs Ray Serve with other options: {error}") from error

    def _deploy(self, application: Any) -> None:
        self._deployed = True
        try:
            self._serve.run(application, name=_NAME, route_prefix="/")
        except RuntimeError as error:
            found = self._serve.status().applications.get(_NAME)
            reasons = [] if found is None else [each.message for each in found.deployments.values()]
            raise ValueError(f"the replicas did not start: {_last_line(' '.join([str(error), *reasons]))}") from error

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM or `stop`."""
        try:
            self._ended.wait()
        finally:
            self.close()

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._ended.set()

    def close(self) -> None:
        """Stop the replicas, and the cluster if it was started for them."""
        if self._own_cluster:
            if self._deployed:
                self._serve.delete(_NAME)  # lets requests and streams end
        elif self._own_serve:
            self._serve.shutdown()
        elif self._deployed:
            self._serve.delete(_NAME)
        if self._connected:
            self._ray.shutdown()


def _application(serve: Any, load: Load, options: ServeOptions, replicas: ReplicaOptions, token: str | None) -> Any:
    """Return the application of Ray Serve."""

    def build() -> FastAPI:
        """Make the application; called in each replica."""
        start_logging()
        return make_application(load(), options, token=token)

    number: dict[str, Any] = {"num_replicas": replicas.min_replicas}
    if replicas.max_replicas > replicas.min_replicas:
        number = {
            "autoscaling_config": {
                "min_replicas": replicas.min_replicas,
                "max_replicas": replicas.max_replicas,
                "target_ongoing_requests": replicas.requests_per_replica,
            }
        }
    deployment = serve.deployment(serve.ingress(build)())
    return deployment.options(
        name=_NAME,
        ray_actor_options={"num_cpus": replicas.replica_cpus, "num_gpus": replicas.replica_gpus},
        # Each replica refuses what it cannot take with Retry-After, before Ray would queue it.
        max_ongoing_requests=options.workers + options.queue + options.streams + _SHORT_REQUESTS,
        graceful_shutdown_timeout_s=_DRAIN_SECONDS,
        **number,
    ).bind()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handling of signals, which Ray replaces when it is imported and started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "see Ray's logs"
