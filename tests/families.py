"""The special tokens of the models whose chat templates the tests render, as their tokenizers declare them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """`special` tokens vanish with skip_special_tokens, `added` ones do not; those of `rstrip` swallow white space.

    `stops` are the tokens besides eos at which the model's generation config ends a sample.
    """

    templates: tuple[str, ...]
    special: tuple[str, ...]
    added: tuple[str, ...]
    eos: str
    bos: str | None
    pad: str | None
    stops: tuple[str, ...]
    rstrip: tuple[str, ...]


def _family(
    templates: str,
    special: str,
    added: str = "",
    *,
    eos: str,
    bos: str | None = None,
    pad: str | None = None,
    stops: str = "",
    rstrip: str = "",
) -> Family:
    lists = (tuple(words.split()) for words in (templates, special, added, stops, rstrip))
    names, special_tokens, added_tokens, stop_tokens, swallowing = lists
    return Family(names, special_tokens, added_tokens, eos, bos, pad, stop_tokens, swallowing)


_QWEN_SPECIAL = """
    <|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
    <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>
"""
_QWEN_ADDED = """
    <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>
"""
_GEMMA_SPECIAL = "<pad> <eos> <bos> <unk> <mask> <start_of_turn> <end_of_turn>"
_LLAMA_SPECIAL = "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>"
_COHERE_SPECIAL = "<PAD> <UNK> <CLS> <SEP> <MASK_TOKEN> <BOS_TOKEN> <EOS_TOKEN> <EOP_TOKEN> <|END_OF_TURN_TOKEN|>"
_COHERE_ADDED = "<|START_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> <|SYSTEM_TOKEN|>"

FAMILIES = (
    _family(
        "qwen2_5 qwen2_5_vl",
        _QWEN_SPECIAL,
        _QWEN_ADDED,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        stops="<|endoftext|>",
    ),
    _family(
        "qwen3 qwen3_instruct_2507 qwen3_vl qwen3_5_think qwen3_5_nothink qwen3_6 qwen3_8",
        _QWEN_SPECIAL,
        f"{_QWEN_ADDED} <tool_response> </tool_response> <think> </think>",
        eos="<|im_end|>",
        pad="<|endoftext|>",
        stops="<|endoftext|>",
    ),
    _family("llama3", _LLAMA_SPECIAL, bos="<|begin_of_text|>", eos="<|eot_id|>", stops="<|end_of_text|>"),
    _family(
        "llama3_1 llama3_2",
        f"{_LLAMA_SPECIAL} <|eom_id|> <|python_tag|> <|finetune_right_pad_id|>",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        stops="<|end_of_text|> <|eom_id|>",
    ),
    _family("gemma", _GEMMA_SPECIAL, bos="<bos>", eos="<eos>", pad="<pad>", stops="<end_of_turn>"),
    _family(
        "gemma3",
        f"{_GEMMA_SPECIAL} <start_of_image> <end_of_image>",
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        stops="<end_of_turn>",
    ),
    _family(
        "gemma4 gemma4_v2 gemma4_v3 gemma4_v4 gemma4_v5 diffusion_gemma",
        """<pad> <eos> <bos> <unk> <mask> <|turn> <turn|> <|channel> <channel|> <|think|> <|tool> <tool|> <|tool_call>
           <tool_call|> <|tool_response> <tool_response|> <|"|> <|image> <|image|> <image|> <|audio> <|audio|> <audio|>
           <|video|>""",
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        stops="<turn|> <|tool_response>",
    ),
    _family(
        "gptoss",
        """<|startoftext|> <|endoftext|> <|return|> <|constrain|> <|channel|> <|start|> <|end|> <|message|> <|call|>
           <|endofprompt|>""",
        bos="<|startoftext|>",
        eos="<|return|>",
        pad="<|endoftext|>",
        stops="<|endoftext|> <|call|>",
    ),
    _family(
        "glm4moe",
        """<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|>
           <|begin_of_image|> <|end_of_image|> <|begin_of_video|> <|end_of_video|>""",
        """/nothink <think> </think> <tool_call> </tool_call> <tool_response> </tool_response> <arg_key> </arg_key>
           <arg_value> </arg_value>""",
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        stops="<|user|> <|observation|>",
    ),
    _family(
        "deepseekv3 deepseek_r1_distill",
        "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜▁pad▁｜>",
        """<｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> <｜tool▁calls▁end｜> <｜tool▁call▁begin｜>
           <｜tool▁call▁end｜> <｜tool▁outputs▁begin｜> <｜tool▁outputs▁end｜> <｜tool▁output▁begin｜>
           <｜tool▁output▁end｜> <｜tool▁sep｜> <think> </think>""",
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        pad="<｜end▁of▁sentence｜>",
    ),
    _family(
        "phi3 phi3_5",
        "<unk> <s> </s> <|endoftext|> <|assistant|> <|system|> <|end|> <|user|>",
        bos="<s>",
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        stops="<|assistant|> <|end|>",
        rstrip="</s> <|assistant|> <|system|> <|end|> <|user|>",
    ),
    _family("cohere", _COHERE_SPECIAL, _COHERE_ADDED, bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>", pad="<PAD>"),
    _family(
        "cohere2",
        _COHERE_SPECIAL,
        f"{_COHERE_ADDED} <|START_RESPONSE|> <|END_RESPONSE|> <|START_THINKING|> <|END_THINKING|>",
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
        pad="<PAD>",
    ),
    _family(
        "lfm2 lfm2_v2 lfm2_2_5 lfm2_2_5_v2 lfm2_2_5_vl",
        """<|pad|> <|startoftext|> <|endoftext|> <|fim_pre|> <|fim_mid|> <|fim_suf|> <|im_start|> <|im_end|>
           <|tool_list_start|> <|tool_list_end|> <|tool_call_start|> <|tool_call_end|> <|tool_response_start|>
           <|tool_response_end|> <image>""",
        "<think> </think>",
        bos="<|startoftext|>",
        eos="<|im_end|>",
        pad="<|pad|>",
    ),
    _family(
        "nemotron_3_nano nemotron_3_super nemotron_3_ultra nemotron_3_5_lightning",
        "<unk> <s> </s> <|im_start|> <|im_end|>",
        "<think> </think> <tool_call> </tool_call> <tool_response> </tool_response>",
        bos="<s>",
        eos="<|im_end|>",
        pad="<|im_end|>",
        stops="</s>",
    ),
    _family(
        "muse_glimmer",
        "<|begin_of_text|> <|end_of_text|> <|start|> <|message|> <|eot|> <|eom|> <|patch|> <|video|>",
        bos="<|begin_of_text|>",
        eos="<|eot|>",
        pad="<|end_of_text|>",
    ),
    _family(
        "idefics3",
        f"{_LLAMA_SPECIAL} <fake_token_around_image> <image> <end_of_utterance>",
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        pad="<|end_of_text|>",
        stops="<end_of_utterance>",
    ),
    _family(
        "smolvlm",
        "<|endoftext|> <|im_start|> <|im_end|> <fake_token_around_image> <image> <end_of_utterance>",
        bos="<|im_start|>",
        eos="<end_of_utterance>",
        pad="<|im_end|>",
    ),
    _family("llava_next", "<unk> <s> </s> <image> <pad>", bos="<s>", eos="</s>", pad="<pad>"),
)
BY_TEMPLATE = {template: family for family in FAMILIES for template in family.templates}

NO_TEXT_CHAT = {
    "idefics3": "reads content as a list of parts: a text, and with it the message, renders as nothing",
    "smolvlm": "reads content as a list of parts: a text, and with it the message, renders as nothing",
    "llava_next": "reads content as a list of parts, and has no generation prompt",
}
"""Templates of models for images that cannot serve a conversation of plain texts, and why."""

TEXT_TEMPLATES = tuple(sorted(set(BY_TEMPLATE) - set(NO_TEXT_CHAT)))
"""Templates that serve text chat, in the order of their names. gemma3 and the other `vl` ones take plain texts too."""
