"""Similarity by a small embedder of random weights, in the format that sentence-transformers saves, against its own vectors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.measures import Answered, check_measures, measure
from vtblender_nemo.evaluation.metrics.embeddings import _model, embedding_similarity

WORDS = ["the", "cat", "sat", "dog", "ran", "nobody"]
NAME = "embedding_similarity_percent"


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentence_transformers", reason='pip install "vtblender_nemo[embedding]"')
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("embedder")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=5 + len(WORDS), initializer_range=1.0, **size)).save_pretrained(folder / "bert")
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(folder / "bert")
    words = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[words, Pooling(16)], device="cpu").save(str(folder / "saved"))
    return folder / "saved"


def answered(said: str, right: str) -> Answered:
    return Answered(Item("1", "t", None, right), said)


def test_it_is_the_cosine_of_the_embedders_vectors(embedder):
    from sentence_transformers import SentenceTransformer

    said, right = ["the cat sat", "a dog ran", ""], ["the cat sat", "the cat sat", "nobody"]
    vectors = SentenceTransformer(str(embedder), device="cpu").encode([*said, *right])
    expected = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(vectors[:3], vectors[3:], strict=True)
    ]
    kept = embedding_similarity(said, right, embedder=str(embedder))
    ours = kept.rows[:, 0]
    assert ours == pytest.approx([max(cosine, 0.0) for cosine in expected], abs=1e-5)
    assert ours[0] == pytest.approx(1)
    assert len({round(cosine, 3) for cosine in expected}) == 3
    assert kept.value == pytest.approx(100 * ours.mean())
    assert kept.signature.startswith("embedder:saved|cosine|version:")


def test_vectors_that_point_apart_have_nothing_in_common(embedder, monkeypatch):
    vectors = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    monkeypatch.setattr(_model(str(embedder)), "encode", lambda texts, **_: vectors)
    assert embedding_similarity(["a"], ["b"], embedder=str(embedder)).value == 0


def test_as_a_measure_it_wants_its_embedder(embedder):
    check_measures([NAME], {"embedder": str(embedder)}, "tasks.t")
    given = [answered("the cat sat", "the cat sat"), answered("dog", "dog")]
    assert measure(NAME, given, {"embedder": str(embedder), "rules": "squad"}).value == pytest.approx(100)
    with pytest.raises(ConfigError, match=r"without its embedder; expected .*sentence-transformers.*options.embedder"):
        check_measures([NAME], {}, "tasks.t")
    with pytest.raises(ConfigError, match=r"the embedder cannot be loaded.*found '.*/none'"):
        check_measures([NAME], {"embedder": f"{embedder}/none"}, "tasks.t")


def test_without_its_package_it_says_how_to_get_it(monkeypatch):
    _model.cache_clear()
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"vtblender_nemo\[embedding\]"):
        check_measures([NAME], {"embedder": "any"}, "tasks.t")
