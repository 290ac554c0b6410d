#!/usr/bin/env python3
"""Opens everything keyfold has sealed, from a data directory and the ciphertexts alone: decrypt.py DATA CASES.json

Written from the description of the formats only. Standard library, and AES from `cryptography` or openssl's CLI.
Prints a JSON array: the plaintexts of each case in hex.
"""
import hashlib, hmac, json, sqlite3, struct, subprocess, sys, uuid
from pathlib import Path

def aes(key, blocks):
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)
    except ImportError:
        command = ["openssl", "enc", "-aes-256-ecb", "-nopad", "-K", key.hex()]
        return subprocess.run(command, input=blocks, stdout=subprocess.PIPE, check=True).stdout

def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))

def ghash(h, data):
    h, y = int.from_bytes(h, "big"), 0
    for at in range(0, len(data), 16):
        x, v, y = y ^ int.from_bytes(data[at : at + 16], "big"), h, 0
        for bit in range(127, -1, -1):
            y ^= v if x >> bit & 1 else 0
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    return y.to_bytes(16, "big")

def gcm_open(key, nonce, aad, sealed):
    text, tag = sealed[:-16], sealed[-16:]
    counters = b"".join(nonce + struct.pack(">I", i + 1) for i in range(1 + (len(text) + 15) // 16))
    blocks = aes(key, bytes(16) + counters)
    pad = lambda data: data + bytes(-len(data) % 16)
    hashed = ghash(blocks[:16], pad(aad) + pad(text) + struct.pack(">QQ", 8 * len(aad), 8 * len(text)))
    assert xor(hashed, blocks[16:32]) == tag, "the tag does not fit"
    return xor(text, blocks[32:])

def subkey(key):
    doubled = int.from_bytes(aes(key, bytes(16)), "big") << 1
    return (doubled & (1 << 128) - 1 ^ (0x87 if doubled >> 128 else 0)).to_bytes(16, "big")

def xaes_open(key, nonce, aad, sealed, suite=1):
    k1 = subkey(key)
    if suite == 2:
        x = aes(key, b"XCMT" + nonce[:12])
        kc = b"".join(aes(key, xor(xor(nonce[12:] + bytes([0, 1, 0, i]), x), k1)) for i in (1, 2))
        sealed, found = sealed[:-32], sealed[-32:]
        assert kc == found, "KC does not fit"
    kx = b"".join(aes(key, xor(bytes([0, i, 0x58, 0]) + nonce[:12], k1)) for i in (1, 2))
    return gcm_open(kx, nonce[12:], aad, sealed)

def hkdf(secret, info):
    prk = hmac.new(bytes(64), secret, hashlib.sha512).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha512).digest()[:32]

def context_hash(context):
    entries = sorted((k.encode(), v.encode()) for k, v in context.items())
    text = b"".join(struct.pack(">H", len(s)) + s for entry in entries for s in entry)
    return hashlib.sha256(struct.pack(">H", len(entries)) + text if entries else b"").digest()

class Opener:
    def __init__(self, directory):
        root = bytes.fromhex((Path(directory) / "root.key").read_text().strip())
        self.root = hkdf(root, b"keyfold/root/v1/material")
        self.catalog = sqlite3.connect(f"file:{directory}/catalog.sqlite?immutable=1", uri=True)

    def material(self, kms_key_id, version):
        query = "SELECT stored FROM keyMaterials WHERE kmsKeyId = ? AND version = ?"
        (f0,) = self.catalog.execute(query, (str(uuid.UUID(bytes=kms_key_id)), version)).fetchone()
        aad = f0[:6] + kms_key_id + struct.pack(">I", version) + b"SYMMETRIC_DEFAULT"
        return xaes_open(self.root, f0[6:30], aad, f0[30:])

    def unwrap(self, wrapped, context):
        head, store_part = wrapped[:23], wrapped[23:]
        version, _, usage, kms_key_id, material_version = struct.unpack(">BBB16sI", head)
        assert version == 0xE0
        key = self.material(kms_key_id, material_version)
        return usage, xaes_open(key, store_part[:24], head + context_hash(context), store_part[24:])

    def message_key(self, entry, context):
        usage, key = self.unwrap(entry[34:], context)
        assert usage == 1 and hkdf(key, b"keyfold/messages/v1/commitment") == entry[:32]
        return key

    def message(self, message, context, entries):
        version, suite = message[:2]
        if version == 0xE1:
            end = 36 + struct.unpack(">H", message[34:36])[0]
            entry, rest = message[2:end], message[end:]
        else:
            entry, rest = next(e for e in entries if e[:16] == message[2:18]), message[18:]
        return self.sealed(entry, suite, context, rest[:24], rest[24:])

    def sealed(self, entry, suite, context, nonce, sealed):
        key = hkdf(self.message_key(entry, context), b"keyfold/messages/v1/key" + bytes([suite]))
        aad = bytes([suite]) + entry[:16] + context_hash(context)
        return xaes_open(key, nonce, aad, sealed, suite)

    def packed(self, packed, context):
        suite, end = packed[1], 36 + struct.unpack(">H", packed[34:36])[0]
        entry, r, (count,) = packed[2:end], packed[end : end + 20], struct.unpack(">I", packed[end + 20 : end + 24])
        lengths = struct.unpack(f">{count}I", packed[end + 24 : end + 24 + 4 * count])
        at, overhead, messages = end + 24 + 4 * count, 48 if suite == 2 else 16, []
        for length in lengths:
            messages.append(packed[at : at + length + overhead])
            at += length + overhead
        tags = b"".join(message[-overhead:] for message in messages)
        key = hkdf(self.message_key(entry, context), b"keyfold/messages/v1/key" + bytes([suite]))
        aad = b"keyfold/packed/v1" + bytes([suite]) + entry[:16] + context_hash(context)
        aad += packed[end + 20 : end + 24 + 4 * count] + tags
        assert xaes_open(key, r + b"\xff" * 4, aad, packed[at:]) == b""
        nonces = (r + struct.pack(">I", i) for i in range(count))
        return [self.sealed(entry, suite, context, nonce, message) for nonce, message in zip(nonces, messages)]

def main(directory, cases):
    opener, answers = Opener(directory), []
    for case in json.loads(Path(cases).read_text())["cases"]:
        context, unhex = case["context"], bytes.fromhex
        if case["form"] == "packed":
            opened = opener.packed(unhex(case["packed"]), context)
        elif case["form"] == "data-key":
            opened = [opener.unwrap(unhex(blob), context)[1] for blob in case["wrappedKeys"]]
        else:
            entries = [unhex(entry) for entry in case.get("keyEntries", [])]
            opened = [opener.message(unhex(message), context, entries) for message in case["ciphertexts"]]
        answers.append([plaintext.hex() for plaintext in opened])
    print(json.dumps(answers))

if __name__ == "__main__":
    main(*sys.argv[1:])
