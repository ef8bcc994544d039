"""`make deploy SPEC=…`: prefect.yaml's deployments for a spec of the user's, and no two of one name."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.settings import PREFECT_API_URL, temporary_settings

from audit.spec.load import load_spec
from audit.spec.model import Spec
from deployments import deploy as deploying
from deployments.deploy import MODEL, OF_THE_MODEL, Case, as_runs_name_it, checked, deploy, lines, read, rendered
from deployments.local import local
from deployments.where import CLONE
from flows._runs import SHIPPED
from tests.deployments.test_prefect_yaml import CONTENT, FILES, HERE

CANCER = Case("cancer", "/data/cancer.yaml")
NOBODY = "http://127.0.0.1:9/api"
LABELS = sorted({tag for deployment in HERE.values() for tag in deployment["tags"]} - {OF_THE_MODEL})

names = st.from_regex(Spec.model_fields["name"].metadata[0].pattern, fullmatch=True)
each_model = pytest.mark.parametrize("model", FILES, ids=lambda file: file.name)


def of_cancer(model: Path, case: Case = CANCER) -> dict[str, dict]:
    """The deployments made of the model's, by the model's names."""
    content = read(model)
    made = rendered(content, [case])["deployments"]
    return {was["name"]: one for was, one in zip(content["deployments"], made, strict=True)}


@each_model
def test_the_spec_that_ships_gets_the_model_as_it_stands(model):
    content = yaml.safe_load(model.read_text())
    made = rendered(read(model), checked(None, ""))
    assert made == {key: content[key] for key in made}
    assert load_spec(CLONE / SHIPPED).name == OF_THE_MODEL


@each_model
def test_another_spec_has_its_own_file_tag_and_names_and_all_else_as_the_model_has_it(model):
    for was, made in zip(read(model)["deployments"], of_cancer(model).values(), strict=True):
        assert made["name"] == f"cancer-{was['name']}"
        assert made["parameters"] == {"spec_file": "/data/cancer.yaml"}
        assert made["tags"] == ["cancer", *was["tags"][1:]]
        renamed = {"name", "parameters", "tags", "schedules", "triggers"}
        assert {k: v for k, v in made.items() if k not in renamed} == {k: v for k, v in was.items() if k not in renamed}


@each_model
def test_monitoring_waits_for_the_scoring_of_its_own_spec_and_pool(model):
    waiting = [made for made in of_cancer(model).values() if "triggers" in made]
    assert waiting
    for made in waiting:
        (trigger,) = made["triggers"]
        assert trigger["match_related"]["prefect.resource.name"] == made["name"].replace("monitoring", "scoring")
        assert trigger["name"].startswith("cancer-"), "two of one name in the UI's list"


@given(st.lists(names, unique=True, min_size=2, max_size=4))
def test_no_two_deployments_have_one_name(specs):
    cases = [Case(name, f"/data/{name}.yaml") for name in specs]
    made = [(d["entrypoint"], d["name"]) for model in CONTENT.values() for d in rendered(model, cases)["deployments"]]
    assert len(made) == len(set(made))


@pytest.mark.parametrize(
    ("case", "zone"),
    [
        (CANCER, "UTC"),
        (Case("cancer", "cancer.yaml", "Europe/Vienna"), "Europe/Vienna"),
        (Case(OF_THE_MODEL, SHIPPED), "America/New_York"),
        (Case(OF_THE_MODEL, SHIPPED, "Europe/Vienna"), "Europe/Vienna"),
    ],
    ids=["a spec of the user's", "asked for", "the spec that ships", "asked for it"],
)
def test_days_begin_in_utc_or_where_somebody_asked(case, zone):
    made = of_cancer(MODEL, case)
    for name in ("scoring", "monitoring"):
        assert made[name]["schedules"] == [{**HERE[name]["schedules"][0], "timezone": zone}]
    assert made["maintenance"]["schedules"] == HERE["maintenance"]["schedules"], "an hour has no place"


@each_model
def test_prefect_reads_what_is_written_as_it_is_meant(model, home):
    made = rendered(read(model), [CANCER, Case("visits", "visits.yaml")])
    file = deploying.written(made, model.name)
    assert yaml.safe_load(file.read_text()) == made
    assert [d.name for d in PrefectYamlModel.model_validate(made).deployments] == [
        d["name"] for d in made["deployments"]
    ]


def test_a_line_says_what_to_run_and_what_starts_it():
    told = dict(line.split(maxsplit=1) for line in lines(rendered(read(MODEL), [CANCER])))
    assert told["scoring/cancer-scoring"] == "daily (0 5 * * *, UTC)"
    assert told["monitoring/cancer-monitoring"] == "after cancer-scoring, daily (0 7 * * *, UTC)"
    assert told["training/cancer-training"] == "by hand"
    assert told["maintenance/cancer-maintenance"] == "hourly"


def test_runs_name_a_spec_in_the_clone_as_every_clone_does_and_another_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(CLONE / "flows")
    assert as_runs_name_it(Path("specs/flights.yaml")) == SHIPPED
    assert as_runs_name_it(Path("../flows/specs/flights.yaml")) == SHIPPED
    (tmp_path / "linked.yaml").symlink_to(CLONE / SHIPPED)
    assert as_runs_name_it(tmp_path / "linked.yaml") == str(tmp_path / "linked.yaml"), "sources lie beside the link"


@pytest.fixture(params=[deploy, local], ids=["make deploy", "make ui"])
def said(request, home, capsys):
    """What the command says that ends with exit code 1, and without having written anything."""

    def run(*specs: Path, **how: str) -> str:
        with pytest.raises(SystemExit) as ended:
            request.param(list(specs), **how)
        assert ended.value.code == 1
        assert not home.exists()
        return capsys.readouterr().out

    return run


def test_a_spec_with_an_error_is_told_in_a_line_before_anything_is_done(said, visits):
    visits.write_text(visits.read_text().replace("dtype: float", "dtype: flaot"))
    assert said(Path(SHIPPED), visits).count("\n") == 1
    assert "visits.yaml:9: " in said(visits)
    assert "does not exist" in said(visits.with_name("gone.yaml"))


def test_two_specs_of_one_name_are_refused(said, visits):
    other = visits.with_name("other.yaml")
    other.write_text(visits.read_text())
    assert "are both called 'visits'" in said(visits, other)


@pytest.mark.parametrize("label", LABELS)
def test_no_spec_is_called_as_a_tag_of_others(said, visits, label):
    visits.write_text(visits.read_text().replace("name: visits", f"name: {label}", 1))
    assert f"{label!r} is a tag of other deployments" in said(visits)


@pytest.mark.parametrize("zone", ["Europe/Wien", "../etc/passwd", "Europe"])
def test_a_time_zone_that_does_not_exist_is_refused(said, visits, zone):
    assert f"{zone!r} is no time zone." in said(visits, timezone=zone)


@pytest.mark.parametrize("said", [deploy], indirect=True, ids=["make deploy"])
def test_without_a_server_it_ends_in_one_line(said, visits):
    with temporary_settings({PREFECT_API_URL: NOBODY}):
        told = said(visits)
    assert f"Prefect's server at {NOBODY} does not answer" in told
    assert told.count("\n") == 1
