"""Options of the executors. No torch, no ray, no submitit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from urbancross_bench.interfaces import Options


class RayOptions(Options):
    """`ray[address=auto]`, or `ray[cpus=4]` for a cluster of this machine alone."""

    address: str | None = Field(
        default=None,
        description="an existing cluster: auto, HOST:PORT or ray://HOST:PORT; by default one is started here",
    )
    cpus: PositiveInt | None = Field(
        default=None, description="CPUs of the cluster that is started here; by default those of this machine"
    )
    gpus: NonNegativeInt | None = Field(
        default=None, description="GPUs of the cluster that is started here; by default those of this machine"
    )
    gpus_per_task: PositiveFloat | None = Field(
        default=None,
        description="GPUs of a task on CUDA: 0.5 lets two share one; by default as many as it uses devices",
    )
    memory: PositiveFloat | None = Field(
        default=None, description="GiB that a task reserves; by default its memory limit, if it has one"
    )
    slots: PositiveInt | None = Field(
        default=None,
        description="tasks handed to ray at once; by default as many as its nodes take, more for one that grows",
    )


class SlurmOptions(Options):
    """`slurm[partition=gpu,minutes=120]`."""

    cluster: Literal["slurm", "local"] = Field(
        default="slurm", description="local: the same jobs as processes of this machine, to try without a cluster"
    )
    slots: PositiveInt = Field(default=16, description="jobs in the queue or running at once")
    minutes: PositiveInt = Field(
        default=240, description="time of a job; a training that needs more goes on in the next `run`"
    )
    memory: PositiveFloat | None = Field(
        default=None,
        description="GiB of a job; by default a little more than a task's memory limit, if it has one",
    )
    partition: str | None = Field(default=None, description="partition of the jobs")
    account: str | None = Field(default=None, description="account of the jobs")
    qos: str | None = Field(default=None, description="quality of service of the jobs")
    gres: str | None = Field(
        default=None, description="generic resources, `gpu:a100:1`; by default on CUDA as many GPUs as devices"
    )
    additional_parameters: tuple[str, ...] = Field(
        default=(), description="any other options of sbatch, without their dashes: [constraint=rome,exclusive]"
    )
