"""The shared tokenizer: fixed shapes, nothing lost, prefixes mean the same."""

import json
import pickle
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.train_vocabulary import train
from fedemb.errors import NotAvailable, UserError
from model_zoo.text.files import open_tokenizer
from model_zoo.text.tokenizer import BOS, EOS, PAD, UNKNOWN, decode, encode, shipped
from model_zoo.text.words import SPACE, canonical, words
from simulations.datasets import load


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_whole_vocabulary_loses_nothing_but_case_and_spacing(text):
    whole = shipped()
    normal = "".join(words(text)).replace(SPACE, " ").strip()
    assert whole.text(whole.pieces(text)) == normal
    assert UNKNOWN not in whole.pieces(text)


@pytest.mark.parametrize("size", [128, 256, 500, 1024])
def test_every_size_reads_the_captions_of_the_worlds(size):
    captions = load("clips", users=50).fetch(np.arange(20)).fields["caption"]
    tokenizer = shipped(size)
    assert tokenizer.vocab_size == size
    ids = encode(tokenizer, captions, 64)
    assert ids.dtype == np.int64
    assert ids.shape == (len(captions), 64)
    assert ids.max() < size
    assert decode(tokenizer, ids) == list(captions)


def test_a_smaller_vocabulary_is_the_beginning_of_a_larger_one():
    small, large = shipped(128), shipped(256)
    for word in ("red", "square", "moves", "zebra"):
        assert small.text(small.pieces(word)) == word
        assert large.text(small.pieces(word)) == word
    caption = "a red square moves left and a blue ball spins"
    assert len(large.pieces(caption)) == 10  # a piece for each word
    assert len(small.pieces(caption)) <= 18


def test_short_vocabularies_say_unknown_and_the_whole_one_spells():
    assert UNKNOWN in shipped(256).pieces("é")
    assert shipped(256).text(shipped(256).pieces("é")) == "\ufffd"
    assert shipped().text(shipped().pieces("é 猫")) == "é 猫"


def test_long_texts_are_cut_so_that_the_end_stays():
    ids = encode(shipped(256), ["red " * 20, "red", ""], 6, bos=True)
    assert (ids[:, 0] == BOS).all()
    assert ids[0, -1] == EOS
    assert PAD not in ids[0]
    assert ids[1].tolist()[2:] == [EOS, PAD, PAD, PAD]
    assert ids[2].tolist() == [BOS, EOS, PAD, PAD, PAD, PAD]
    assert EOS not in encode(shipped(256), ["red"], 6, eos=False)
    assert encode(shipped(256), [], 6).shape == (0, 6)


def test_a_text_depends_on_no_other():
    texts = ["a red ball", "é", "a blue ring spins"]
    together = encode(shipped(128), texts, 20)
    alone = [encode(shipped(128), [text], 20)[0] for text in texts]
    assert (together == np.stack(alone)).all()


def test_it_travels_to_other_processes():
    there = pickle.loads(pickle.dumps(shipped(256)))
    assert there.pieces("a red ball") == shipped(256).pieces("a red ball")


@pytest.mark.parametrize("size", [10, 900, 5000])
def test_sizes_that_are_not_shipped_are_named(size):
    with pytest.raises(UserError, match=f"vocabulary of {size}"):
        shipped(size)


@pytest.mark.slow
def test_the_kept_script_trains_the_shipped_vocabulary():
    file = resources.files("model_zoo.text") / "vocabulary.json"
    shipped_merges = json.loads(file.read_text(encoding="utf-8"))["merges"]
    assert [list(pair) for pair in train()] == shipped_merges


def test_no_room_for_text_is_refused():
    with pytest.raises(UserError, match="length=2"):
        encode(shipped(128), ["a"], 2, bos=True)


def test_captions_are_made_canonical_as_published():
    assert canonical("Hello, World!") == "hello world."


def test_files_that_are_no_tokenizers_are_named(tmp_path):
    with pytest.raises(NotAvailable, match="does not exist"):
        open_tokenizer(tmp_path / "tokenizer.json")
    other = tmp_path / "words.txt"
    other.write_text("red")
    with pytest.raises(UserError, match="neither"):
        open_tokenizer(other)


def test_a_hugging_face_tokenizer_reads_and_travels(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra `text`")
    table = {"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "ball": 4}
    model = tokenizers.models.WordLevel(table, unk_token="<unk>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    file = tmp_path / "tokenizer.json"
    made.save(str(file))
    reader = pickle.loads(pickle.dumps(open_tokenizer(file)))
    assert encode(reader, ["red ball", "blue"], 4).tolist() == [
        [3, 4, 1, 0],
        [2, 1, 0, 0],
    ]
    assert decode(reader, np.array([[3, 4, 1, 0]])) == ["red ball"]
    file.write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        open_tokenizer(file)


def test_a_sentencepiece_model_reads(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs extra `text`")
    captions = load("clips", users=50).fetch(np.arange(20)).fields["caption"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(map(str, captions)),
        model_prefix=str(tmp_path / "small"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    reader = open_tokenizer(tmp_path / "small.model")
    assert decode(reader, encode(reader, captions, 64)) == list(captions)
