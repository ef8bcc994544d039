"""Models: the same fit has the same digest in any process; a file cannot bring in a type that is not on the list."""

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from audit.artifacts import blobs, models
from audit.errors import ArtifactUnavailable
from audit.events.references import ModelVersion


def fitted(kind: str = "trees", seed: int = 0, rows: int = 400) -> Pipeline:
    """A pipeline as our training builds them, encoding included."""
    draw = np.random.default_rng(seed)
    seen = pd.DataFrame({"carrier": draw.choice(["AA", "UA", None], rows), "delay": draw.normal(size=rows)})
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    encode = ColumnTransformer(
        [("text", codes if kind != "line" else OneHotEncoder(handle_unknown="ignore"), ["carrier"])],
        remainder="passthrough" if kind != "line" else make_pipeline(StandardScaler()),
    )
    estimator = {
        "trees": HistGradientBoostingClassifier(max_iter=10, random_state=0),
        "forest": RandomForestClassifier(n_estimators=3, random_state=0),
        "line": LogisticRegression(),
    }[kind]
    with threadpool_limits(1):  # on a busy machine OpenMP's threads wait for each other longer than they work
        return make_pipeline(encode, estimator).fit(seen, seen["delay"] > 0)


@pytest.mark.parametrize("kind", ["trees", "forest", "line"])
def test_a_model_comes_back_and_decides_the_same(home: Path, kind: str) -> None:
    model = fitted(kind)
    reference = models.put(model, "flights")
    again = models.load(reference)
    rows = pd.DataFrame({"carrier": ["AA", None, "never seen"], "delay": [0.1, -0.2, 3.0]})
    assert (reference.name, reference.version) == ("flights", 0)
    assert np.array_equal(again.predict_proba(rows), model.predict_proba(rows))
    assert models.digest(again) == models.digest(model) == reference.digest


@pytest.mark.parametrize("kind", ["trees", "forest", "line"])
def test_the_same_fit_has_the_same_digest_and_another_fit_another(kind: str) -> None:
    kept = fitted(kind)  # kept alive, so that the second fit's objects lie elsewhere
    assert models.digest(fitted(kind)) == models.digest(kept)
    assert models.digest(fitted(kind, seed=1)) != models.digest(kept)


def test_the_order_in_which_a_set_was_filled_does_not_count() -> None:
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other), "the two collide, so that they are kept in the order of arrival"
    digests = {models.digest(FunctionTransformer(kw_args={"chosen": chosen})) for chosen in (one, other)}
    assert len(digests) == 1


def test_what_the_memory_held_between_the_fields_of_an_array_does_not_count() -> None:
    """A forest's nodes have seven bytes to spare each, which loading fills with anything."""
    spread = np.dtype({"names": ["a", "b"], "formats": ["<i8", "u1"], "offsets": [0, 8], "itemsize": 16})

    def digest(fill: int, field: int = 1) -> str:
        records = np.frombuffer(bytes([fill]) * 48, dtype=spread).copy()
        records["a"], records["b"] = field, field
        return models.digest(FunctionTransformer(kw_args={"nodes": records}))

    assert digest(fill=0) == digest(fill=255)
    assert digest(fill=0, field=2) != digest(fill=0)


def test_one_parameter_makes_another_digest() -> None:
    model = fitted("line")
    before = models.digest(model)
    model.set_params(logisticregression__C=2.0)
    assert models.digest(model) != before


def test_a_type_that_is_not_on_the_list_is_refused_by_name(home: Path) -> None:
    reference = models.put(make_pipeline(FunctionTransformer(textwrap.dedent)), "flights")
    with pytest.raises(ArtifactUnavailable, match=r"types that are not trusted: textwrap\.dedent"):
        models.load(reference)


def test_a_file_that_is_no_model_is_refused_by_name(home: Path) -> None:
    reference = ModelVersion(address=blobs.put(b"not a model"), digest="sha256:0", name="flights")
    with pytest.raises(ArtifactUnavailable, match="is not a model"):
        models.load(reference)
