def refusal(call):
    return "the native library is not built"
