"""The peer of concurrency.rs: llama-cpp-python's server with a random F16 Llama of the same shape.

    python concurrency_peer.py LAYERS HEADS KEY_VALUE_HEADS WIDTH FEED_FORWARD CONTEXT VOCABULARY THREADS

Listens on a free port of 127.0.0.1, prints one JSON line with the URL once it answers, and ends when its input does.
Its server takes prompts as text alone. So the ids from 259 on are single characters (U+4E00 and up, then U+AC00 and
up): no two of them merge, and each is an event of its own. The ids before them (unknown, begin, end, bytes) have a
zero row in the head, so none of them is ever among the 40 likeliest and no stream ends early.
Interruption is off: with it, a second request cuts the stream of the first.
"""

import json
import pathlib
import socket
import sys
import tempfile
import threading
import time

import gguf
import numpy as np
import uvicorn
from llama_cpp.server.app import create_app
from llama_cpp.server.settings import ModelSettings, ServerSettings

FIRST, HAN, HAN_COUNT, HANGUL = 259, 0x4E00, 20_992, 0xAC00


def vocabulary(size):
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256
    for index in range(size - FIRST):
        tokens.append(chr(HAN + index if index < HAN_COUNT else HANGUL + index - HAN_COUNT))
        kinds.append(gguf.TokenType.NORMAL)
    return tokens, kinds


def write(path, layers, heads, key_value_heads, width, feed_forward, context, size):
    random = np.random.default_rng(1)

    def matrix(rows, columns):
        return (random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)).astype(np.float16)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_value_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    tokens, kinds = vocabulary(size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)

    norm, narrow = np.ones(width, np.float32), width // heads * key_value_heads
    head = matrix(size, width)
    head[:FIRST] = 0
    writer.add_tensor("token_embd.weight", matrix(size, width))
    writer.add_tensor("output_norm.weight", norm)
    writer.add_tensor("output.weight", head)
    shapes = {"attn_q": (width, width), "attn_k": (narrow, width), "attn_v": (narrow, width),
              "attn_output": (width, width), "ffn_gate": (feed_forward, width), "ffn_up": (feed_forward, width),
              "ffn_down": (width, feed_forward)}
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", norm)
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(*shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(layers, heads, key_value_heads, width, feed_forward, context, size, threads):
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as listener:
        path = pathlib.Path(directory) / "random.gguf"
        write(path, layers, heads, key_value_heads, width, feed_forward, context, size)
        model = ModelSettings(model=str(path), model_alias="m", n_ctx=context, n_threads=threads,
                              n_threads_batch=threads, verbose=False)
        app = create_app(server_settings=ServerSettings(interrupt_requests=False), model_settings=[model])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))

        def watch():
            while not server.started:
                time.sleep(0.05)
            print(json.dumps({"url": "http://127.0.0.1:%d" % listener.getsockname()[1]}), flush=True)
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=watch, daemon=True).start()
        server.run(sockets=[listener])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
