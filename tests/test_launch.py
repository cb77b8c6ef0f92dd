"""What the launch scripts would start, and what JAX would make of its environment.

The commands that they call are fakes, first on PATH; the python that they end in prints its part.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jax._src import distributed as jax_distributed
from jax._src import xla_bridge
from jax._src.clusters import cloud_tpu_cluster

from s1jax import evaluate, generate, serve, train, xla_flags
from s1jax.distributed import refuse_several, start_distributed
from s1jax.planning.topology import missing
from s1jax.types import UserError
from s1jax.xla_flags import (
    FLAGS,
    MEMORY_VARIABLES,
    VARIABLES,
    apply_flags,
    find_accelerator,
    flags_of,
)

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
SAYS = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID", "SLURM_NTASKS", "JOIN_HOSTS")
JOB = [*SAYS, "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST"]
FLAGS_GIVEN = ["--config=configs/h100_16.py", "--workdir=/shared/a dir"]
PRINTS = """#!{python}
import json, os, sys
names = {names} | {{name for name in os.environ if name.startswith("SLURM_")}}
told = [sys.argv[1:], {{name: os.environ[name] for name in names if name in os.environ}}]
os.write(1, json.dumps(told).encode() + b"\\n")  # at once: others write there too
"""


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    for name in (*JOB, *MEMORY_VARIABLES):
        monkeypatch.setenv(name, "")  # what a test sets there is undone
        monkeypatch.delenv(name)


@pytest.fixture
def checkout(tmp_path):
    """A directory with the launch scripts and a python that prints what it was given."""
    python = tmp_path / "s1jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    executable(python, PRINTS.format(python=sys.executable, names={*JOB, "XLA_FLAGS"}))
    shutil.copytree(LAUNCH, tmp_path / "s1jax" / "launch")
    return tmp_path / "s1jax"


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def ran(command, cwd, fakes=None, **environment):
    """(arguments, environment) of every python that a command ended in."""
    for name, text in (fakes or {}).items():
        executable(cwd.parent / "fakes" / name, text)
    path = f"{cwd.parent / 'fakes'}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def joined(monkeypatch, environment):
    """(address, processes, index, local devices) that JAX would be started with, None if not."""
    started = []

    class Client:
        def connect(self):
            pass

    with monkeypatch.context() as m:
        for name in JOB:
            m.delenv(name, raising=False)
        for name, value in environment.items():
            m.setenv(name, value)
        state = jax_distributed.State()
        service = lambda address, count, **_: started.append(("service", address, count))  # noqa: E731

        def client(address, index, **_):
            started.append((address, index))
            return Client()

        m.setattr(jax_distributed, "global_state", state)
        m.setattr(xla_bridge, "backends_are_initialized", lambda: False)
        m.setattr(jax_distributed._jax, "get_distributed_runtime_service", service)
        m.setattr(jax_distributed._jax, "get_distributed_runtime_client", client)
        m.setattr(state, "initialize_preemption_sync_manager", lambda: None, raising=False)
        m.setattr(socket, "gethostbyname", lambda name: "10.0.0.1")
        m.setattr("s1jax.distributed._on_abort", lambda reason: None)
        visible = []
        m.setattr(jax_distributed.config, "update", lambda *given: visible.append(given))
        several = start_distributed()
    if not several:
        assert started == []
        return None
    (address, index), *_ = [x for x in started if len(x) == 2]
    # Process 0 keeps the coordinator, and nobody else does.
    assert ("service" in [x[0] for x in started]) == (index == 0)
    cuda = [value for name, value in visible if name == "jax_cuda_visible_devices"]
    return address, state.num_processes, index, cuda[0] if cuda else None


# The scripts.


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_and_shellcheck_find_nothing(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = shutil.which("shellcheck") or (str(beside) if beside.exists() else None)
    if shellcheck is None:
        pytest.skip("no shellcheck here")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


SRUN = """#!/usr/bin/env bash
[ "$1 $2" = "--kill-on-bad-exit=1 --cpus-per-task=${SLURM_CPUS_PER_TASK:-8}" ] || exit 9
shift 2
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$((i % 8)) "$@"; done
"""


def test_slurm_starts_a_process_a_gpu(checkout, monkeypatch):
    directives = [
        line.removeprefix("#SBATCH --")
        for line in (LAUNCH / "slurm.sh").read_text().splitlines()
        if line.startswith("#SBATCH")
    ]
    assert {"nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "signal=TERM@600"} <= {*directives}
    slurm = {
        "SLURM_SUBMIT_DIR": str(checkout),
        "SLURM_NTASKS": "16",
        "SLURM_JOB_ID": "4096",
        "SLURM_STEP_NODELIST": "gpu[07-08]",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "12",
    }
    runs = ran(
        [checkout / "launch/slurm.sh", *FLAGS_GIVEN], checkout.parent, {"srun": SRUN}, **slurm
    )
    assert [argv for argv, _ in runs] == [["-m", "s1jax.train", *FLAGS_GIVEN]] * 16
    port = 65535 - 2**12 + 1
    for index, (_, environment) in enumerate(runs):
        mine = {k: v for k, v in environment.items() if k.startswith("SLURM_")}
        address = f"gpu07:{port}"
        assert joined(monkeypatch, mine) == (address, 16, index, str(index % 8))


GCLOUD = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$ASKED"
for argument; do
    case $argument in --command=*) cd .. && bash -c "${argument#--command=}" ;; esac
done
"""
METADATA = {
    "agent-worker-number": "2",
    "worker-network-endpoints": "a:b:10.0.0.1,a:b:10.0.0.2,a:b:10.0.0.3,a:b:10.0.0.4",
    "tpu-env": "",
}


def test_tpu_vms_are_all_told_and_find_each_other(checkout, monkeypatch):
    asked = checkout.parent / "asked"
    where = {"TPU": "my-slice", "ZONE": "us-east5-a", "ASKED": str(asked)}
    script = checkout / "launch/tpu_vm.sh"
    [(argv, environment)] = ran([script, *FLAGS_GIVEN], checkout, {"gcloud": GCLOUD}, **where)
    assert argv == ["-m", "s1jax.train", *FLAGS_GIVEN]
    words = asked.read_text().splitlines()
    assert words[:5] == ["compute", "tpus", "tpu-vm", "ssh", "my-slice"]
    assert {"--zone=us-east5-a", "--worker=all"} <= set(words)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (METADATA[key], 200))
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    mine = {"JOIN_HOSTS": environment["JOIN_HOSTS"]}
    assert joined(monkeypatch, mine) == ("10.0.0.1:8482", 4, 2, None)
    assert joined(monkeypatch, {}) is None


def documents(name):
    return list(yaml.safe_load_all((LAUNCH / name).read_text()))


def ran_in_pod(container, checkout, **given):
    """What the container's command would start, with the environment that its cluster gives."""
    environment = {pair["name"]: pair["value"] for pair in container.get("env", [])}
    [(argv, got)] = ran(
        [*container["command"], *container["args"]], checkout, **environment, **given
    )
    return argv, {name: got[name] for name in JOB if name in got}


def test_kubernetes_starts_a_process_a_pod(checkout, monkeypatch):
    service, job = documents("kubernetes.yaml")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert spec["completionMode"] == "Indexed"
    # The pods' names: what the coordinator's address needs to be found.
    assert service["spec"]["clusterIP"] == "None"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    host = f"{job['metadata']['name']}-0.{pod['subdomain']}"
    for index in range(spec["completions"]):
        argv, mine = ran_in_pod(container, checkout, JOB_COMPLETION_INDEX=str(index))
        assert argv == ["-m", "s1jax.train", *container["args"]]
        inside = mine | {"KUBERNETES_SERVICE_HOST": "10.1.0.1"}
        expected = (f"{host}:8476", spec["parallelism"], index, None)
        assert joined(monkeypatch, inside) == expected
    claimed = {v["name"] for v in pod["volumes"]}
    assert {m["name"] for m in container["volumeMounts"]} == claimed
    actions = {code: r["action"] for r in spec["podFailurePolicy"]["rules"] for code in codes(r)}
    assert actions == {2: "FailJob", 75: "Ignore"}
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy needs


def codes(rule):
    assert rule["onExitCodes"]["operator"] == "In"
    return rule["onExitCodes"]["values"]


def test_gke_starts_a_process_a_host_of_the_slice(checkout, monkeypatch):
    [jobset] = documents("gke.yaml")
    [replicated] = jobset["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    sizes = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert int(sizes[0]) * int(sizes[1]) * int(sizes[2]) == chips * spec["completions"] == 16
    assert spec["parallelism"] == spec["completions"]
    hosts = ",".join(f"s1jax-slice-0-{n}.s1jax" for n in range(4))
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "s1jax-slice-0-0.s1jax")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "1")
    monkeypatch.setenv("MEGASCALE_SLICE_ID", "0")
    given = {"TPU_WORKER_ID": "3", "TPU_WORKER_HOSTNAMES": hosts}
    argv, mine = ran_in_pod(container, checkout, **given)
    assert argv == ["-m", "s1jax.train", *container["args"]]
    assert joined(monkeypatch, mine) == ("s1jax-slice-0-0.s1jax:8482", 4, 3, None)


def test_skypilot_starts_a_process_a_node(checkout, monkeypatch):
    [task] = documents("skypilot.yaml")
    assert (task["num_nodes"], task["resources"]["accelerators"]) == (2, "H100:8")
    given = {"SKYPILOT_NODE_IPS": "10.2.0.1\n10.2.0.2", "SKYPILOT_NUM_NODES": "2"}
    for index in range(2):
        [(argv, environment)] = ran(
            ["bash", "-c", task["run"]],
            checkout,
            **task["envs"],
            **given,
            SKYPILOT_NODE_RANK=str(index),
        )
        assert argv == ["-m", "s1jax.train", *task["envs"]["ARGUMENTS"].split()]
        mine = {name: environment[name] for name in JOB if name in environment}
        assert joined(monkeypatch, mine) == ("10.2.0.1:8476", 2, index, None)


def test_the_rehearsals_run_on_the_cpu(checkout, monkeypatch):
    [(argv, environment)] = ran([checkout / "launch/local_16.sh", *FLAGS_GIVEN], checkout)
    assert argv == ["-m", "s1jax.train", *FLAGS_GIVEN]
    assert environment["XLA_FLAGS"].endswith("device_count=16")
    # The fake python does not know a free port.
    where = {"N": "3", "COORDINATOR_ADDRESS": "localhost:1234"}
    runs = ran([checkout / "launch/local_processes.sh", *FLAGS_GIVEN], checkout, **where)
    assert [argv for argv, _ in runs] == [["-m", "s1jax.train", *FLAGS_GIVEN]] * 3
    found = [joined(monkeypatch, {n: e[n] for n in JOB if n in e}) for _, e in runs]
    assert sorted(found) == [("localhost:1234", 3, index, None) for index in range(3)]


def test_local_processes_end_with_the_first_that_fails(checkout):
    executable(
        checkout / ".venv/bin/python",
        '#!/usr/bin/env bash\n[ "$PROCESS_ID" = 1 ] && exit 7\nexit 0\n',
    )
    script = checkout / "launch/local_processes.sh"
    environment = os.environ | {"COORDINATOR_ADDRESS": "localhost:1", "N": "3"}
    # Who reads what they say is not kept waiting by whatever ends the others.
    done = subprocess.run([script], env=environment, capture_output=True, timeout=30)
    assert done.returncode == 7, done.stderr


STAYS = """#!{python}
import os, signal, sys, time
def end(number, frame):
    os.write(1, b"ended\\n")
    os._exit({{signal.SIGTERM: 75, signal.SIGINT: 130}}[number])
signal.signal(signal.SIGTERM, end)
if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as Python does
    signal.signal(signal.SIGINT, end)
os.write(1, b"ready\\n")
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_local_processes_pass_a_signal_on(checkout, number, code):
    executable(checkout / ".venv/bin/python", STAYS.format(python=sys.executable))
    script = checkout / "launch/local_processes.sh"
    environment = os.environ | {"COORDINATOR_ADDRESS": "localhost:1", "N": "3"}
    with subprocess.Popen([script], env=environment, stdout=subprocess.PIPE, text=True) as job:
        assert [job.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
        job.send_signal(number)
        said, _ = job.communicate(timeout=30)
    assert (job.returncode, said) == (code, "ended\n" * 3)


# The environment.


def test_the_environment_of_a_job_must_be_whole(monkeypatch):
    assert joined(monkeypatch, {}) is None
    assert joined(monkeypatch, {"SLURM_NTASKS": "1"}) is None
    assert joined(monkeypatch, {"SLURM_NTASKS": ""}) is None
    whole = {"COORDINATOR_ADDRESS": "host:1234", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}
    assert joined(monkeypatch, whole) == ("host:1234", 2, 1, None)
    for changed, words in [
        ({"NUM_PROCESSES": ""}, r"COORDINATOR_ADDRESS, PROCESS_ID is set .* NUM_PROCESSES is not"),
        ({"PROCESS_ID": "one"}, "must be whole numbers"),
        ({"PROCESS_ID": "2"}, r"PROCESS_ID=2 must be from 0 to NUM_PROCESSES - 1 = 1"),
        ({"COORDINATOR_ADDRESS": "host"}, r"COORDINATOR_ADDRESS=host has no port"),
    ]:
        with pytest.raises(UserError, match=words):
            joined(monkeypatch, whole | changed)


def test_a_verb_of_one_process_says_what_makes_it_one_of_several(monkeypatch):
    refuse_several("serve")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    refuse_several("serve")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    with pytest.raises(UserError, match=r"^serve runs in one process .* TPU_WORKER_HOSTNAMES says"):
        refuse_several("serve")


# The compiler's flags.


def test_every_flag_has_a_value_and_a_reason():
    assert FLAGS["cpu"] == {}
    for flags in FLAGS.values():
        for name, (value, reason) in flags.items():
            assert name.startswith("xla_")
            assert value == value.strip() != ""
            assert len(reason.split()) > 3


@pytest.mark.parametrize("accelerator", ["gpu", "tpu"])
def test_the_users_own_value_of_a_flag_wins(accelerator, monkeypatch):
    variable, flags = VARIABLES[accelerator], flags_of(accelerator)
    monkeypatch.delenv(variable, raising=False)
    apply_flags(accelerator)
    assert os.environ[variable].split() == [f"--{k}={v}" for k, v in flags.items()]
    first, *others = flags
    monkeypatch.setenv(variable, f"--{first}=mine --xla_other=1")
    apply_flags(accelerator)
    found = os.environ[variable].split()
    assert found == [f"--{first}=mine", "--xla_other=1", *(f"--{k}={flags[k]}" for k in others)]
    apply_flags(accelerator)
    assert os.environ[variable].split() == found
    monkeypatch.setenv(variable, "/a/file.of.flags")
    apply_flags(accelerator)
    assert os.environ[variable] == "/a/file.of.flags"


def test_the_users_own_share_of_a_gpu_wins(monkeypatch):
    def share(**given):
        with monkeypatch.context() as m:
            for name in MEMORY_VARIABLES:
                m.setenv(name, given.get(name, ""))
            apply_flags("gpu")
            return {name: value for name in MEMORY_VARIABLES if (value := os.environ[name])}

    monkeypatch.setenv("XLA_FLAGS", "")
    assert share() == {"XLA_CLIENT_MEM_FRACTION": "0.92"}
    # jaxlib refuses both together.
    for name in MEMORY_VARIABLES:
        assert share(**{name: "0.5"}) == {name: "0.5"}


@pytest.mark.parametrize("verb", [train, evaluate, generate, serve])
def test_the_flags_are_there_before_jax_starts(verb, monkeypatch, tmp_path):
    class Starts(Exception):
        pass

    def starts(*_):
        raise Starts(os.environ["XLA_FLAGS"])

    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(xla_flags, "find_accelerator", lambda: "gpu")
    monkeypatch.setattr(verb, "keep_compiled", starts)
    given = [f"--config={ROOT / 'configs' / 'mini.py'}"]
    if verb in (train, evaluate):
        given.append(f"--workdir={tmp_path}")
    with pytest.raises(Starts, match=next(iter(flags_of("gpu")))):
        verb.main(["verb", *given])


def test_a_cpu_gets_no_flags(monkeypatch):
    before = dict(os.environ)
    apply_flags("cpu")
    assert dict(os.environ) == before


def test_the_accelerator_is_found_without_jax(tmp_path, monkeypatch):
    for given, found in {"cpu": "cpu", "cuda,cpu": "gpu", "tpu": "tpu", "rocm": "cpu"}.items():
        monkeypatch.setenv("JAX_PLATFORMS", given)
        assert find_accelerator(tmp_path) == found
    monkeypatch.delenv("JAX_PLATFORMS")
    assert find_accelerator(tmp_path) == "cpu"
    (tmp_path / "accel0").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_accelerator(tmp_path) == "cpu"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert find_accelerator(tmp_path) == "tpu"
    (tmp_path / "nvidiactl").touch()
    assert find_accelerator(tmp_path) == "tpu"
    (tmp_path / "nvidia0").touch()
    assert find_accelerator(tmp_path) == "gpu"


ACCEPTED = "import jax; print(jax.jit(lambda x: x + 1)(1))"


def test_this_jaxlib_knows_the_flags_of_a_gpu(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    apply_flags("gpu")
    done = subprocess.run([sys.executable, "-c", ACCEPTED], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr[-500:]
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_no_such_flag=1")
    done = subprocess.run([sys.executable, "-c", ACCEPTED], capture_output=True, text=True)
    assert done.returncode != 0
    assert "xla_gpu_no_such_flag" in done.stderr


# Compiles a loop over layers of split weights for hardware that is not there.
ABSENT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from s1jax.planning.topology import absent_devices

devices = absent_devices(sys.argv[1], 8)
mesh = jax.sharding.Mesh(np.array(devices), ("fsdp",))

def spec(shape, *parts):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P(*parts)))

def step(weights, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

platform = "tpu" if sys.argv[1].startswith("v") else "cuda"
traced = jax.jit(step).trace(spec((4, 512, 512), None, "fsdp"), spec((8, 512), "fsdp"))
text = traced.lower(lowering_platforms=(platform,)).compile().as_text()
print(text.count("all-gather"))
"""


@pytest.mark.parametrize(
    ("hardware", "accelerator", "given"),
    [
        ("h100", "gpu", {}),
        pytest.param("v5p", "tpu", {}, marks=pytest.mark.slow),
        pytest.param("v5p", "tpu", {"LIBTPU_INIT_ARGS": "--xla_no_such"}, marks=pytest.mark.slow),
    ],
)
def test_the_compiler_of_an_absent_machine_takes_the_flags(
    hardware, accelerator, given, monkeypatch
):
    if reason := missing(hardware):
        pytest.skip(reason)
    monkeypatch.setenv("XLA_FLAGS", "")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    apply_flags(accelerator)
    done = subprocess.run(
        [sys.executable, "-c", ABSENT, hardware], capture_output=True, text=True, timeout=240
    )
    assert (done.returncode == 0) == (not given), done.stderr[-1000:]
    if not given:
        assert int(done.stdout) > 0
