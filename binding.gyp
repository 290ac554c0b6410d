{
  "targets": [
    {
      "target_name": "keyfold",
      "sources": [
        "native/addon.cc",
        "native/aes_gcm.cc",
        "native/aes_gcm_aesni.cc",
        "native/aes_gcm_vaes.cc",
        "native/audit_lines.cc",
        "native/batch_cipher.cc",
        "native/cpu.cc",
        "native/frames.cc",
        "native/key_table.cc",
        "native/keys.cc",
        "native/listener.cc",
        "native/message_batch.cc",
        "native/packed_batch.cc",
        "native/sha2.cc",
        "native/xaes.cc",
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=9", "NAPI_DISABLE_CPP_EXCEPTIONS"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++17", "-O3", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
      # The statics are the key table: they must outlive the worker thread that loaded the addon.
      "ldflags": ["-Wl,-z,nodelete"],
    }
  ]
}
