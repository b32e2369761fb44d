"""Small sequence-to-sequence models: real words letter by letter, and how they are said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

WORDS = {
    "abandon": "AH0 B AE1 N D AH0 N", "banana": "B AH0 N AE1 N AH0", "cider": "S AY1 D ER0", "deed": "D IY1 D",
    "egg": "EH1 G", "fiddle": "F IH1 D AH0 L", "gable": "G EY1 B AH0 L", "hobby": "HH AA1 B IY0", "idea": "AY0 D IY1 AH0",
    "jolly": "JH AA1 L IY0", "kettle": "K EH1 T AH0 L", "lemon": "L EH1 M AH0 N", "mummy": "M AH1 M IY0",
    "nine": "N AY1 N", "olive": "AA1 L AH0 V", "puppet": "P AH1 P AH0 T", "queen": "K W IY1 N", "river": "R IH1 V ER0",
    "sister": "S IH1 S T ER0", "tulip": "T UW1 L AH0 P", "under": "AH1 N D ER0", "velvet": "V EH1 L V AH0 T",
    "window": "W IH1 N D OW0", "yellow": "Y EH1 L OW0", "zebra": "Z IY1 B R AH0",
    "apple": "AE1 P AH0 L", "bottle": "B AA1 T AH0 L", "candle": "K AE1 N D AH0 L", "dinner": "D IH1 N ER0",
    "elbow": "EH1 L B OW2", "finger": "F IH1 NG G ER0", "garden": "G AA1 R D AH0 N", "hammer": "HH AE1 M ER0",
    "island": "AY1 L AH0 N D", "jacket": "JH AE1 K AH0 T", "kitten": "K IH1 T AH0 N", "ladder": "L AE1 D ER0",
    "magnet": "M AE1 G N AH0 T", "napkin": "N AE1 P K IH0 N", "orange": "AO1 R AH0 N JH", "pencil": "P EH1 N S AH0 L",
    "rabbit": "R AE1 B AH0 T", "saddle": "S AE1 D AH0 L", "table": "T EY1 B AH0 L", "uncle": "AH1 NG K AH0 L",
    "valley": "V AE1 L IY0", "winter": "W IH1 N T ER0", "yogurt": "Y OW1 G ER0 T",
}  # fmt: skip
"""From the CMU Pronouncing Dictionary (BSD-2-Clause)."""

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")


def letters_tokenizer(*, target: bool = False) -> str:
    """Return a tokenizer.json that reads letters, or phones; both share their ids."""
    phones = sorted({phone for said in WORDS.values() for phone in said.split()})
    pieces = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", *phones]
    made = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.add_special_tokens(list(SPECIAL))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if not target:
        made.normalizer = normalizers.Lowercase()
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
        )
    return str(made.to_str())


def write_tokenizers(folder: Path) -> Path:
    """Write both tokenizers, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(letters_tokenizer())
    (folder / "target_tokenizer.json").write_text(letters_tokenizer(target=True))
    return folder


def write_pairs(path: Path, words: list[str]) -> Path:
    """Write the pairs of some words."""
    path.write_text("".join(f"{word}\t{WORDS[word]}\n" for word in words))
    return path


def tiny_ctc(
    folder: Path, *, share: bool = False, seed: int = 0, slot_layers: int = 2, conditioned: Sequence[int] = (1,)
) -> Path:
    """Write an untrained one-pass model of 2 layers over tokens, and `slot_layers` over slots."""
    from edgellm.models.ctc import CtcConfig, CtcForSeq2Seq

    torch.manual_seed(seed)
    size = Tokenizer.from_str(letters_tokenizer()).get_vocab_size()
    config = CtcConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=2,
        num_slot_layers=slot_layers, conditioned_layers=list(conditioned), max_position_embeddings=24, pad_token_id=0,
        share_layers=share,
    )  # fmt: skip
    CtcForSeq2Seq(config).save_pretrained(folder)
    return write_tokenizers(folder)


def tiny_teacher(folder: Path, seed: int = 0, *, length: int = 2) -> Path:
    """Write an untrained model that answers token by token: its positions say `length` phones, and then the end."""
    import transformers

    torch.manual_seed(seed)
    size = Tokenizer.from_str(letters_tokenizer()).get_vocab_size()
    config = transformers.BartConfig(
        vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=48, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, forced_eos_token_id=None,
    )  # fmt: skip
    model = transformers.BartForConditionalGeneration(config)
    with torch.no_grad():
        table, places = model.model.shared.weight, model.model.decoder.embed_positions
        said = [size - 1 - place - seed if place < length else 3 for place in range(48)]
        places.weight[places.offset :] = 50 * table[said]
    model.save_pretrained(folder)
    return write_tokenizers(folder)


def tiny_mask_predict(folder: Path, *, refinements: int = 0, seed: int = 0) -> Path:
    """Write an untrained model that predicts a length of its own for each text, and then all tokens at once."""
    from edgellm.models.mask_predict import MaskPredictConfig, MaskPredictForSeq2Seq

    torch.manual_seed(seed)
    size = Tokenizer.from_str(letters_tokenizer()).get_vocab_size()
    config = MaskPredictConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=1, num_slot_layers=2,
        max_position_embeddings=24, pad_token_id=0, mask_token_id=1, refinements=refinements, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = MaskPredictForSeq2Seq(config)
    model.length.weight.data *= 40
    model.length.bias.data[:2] = model.length.bias.data[9:] = -1000.0  # some length from 2 to 8
    model.save_pretrained(folder)
    return write_tokenizers(folder)
