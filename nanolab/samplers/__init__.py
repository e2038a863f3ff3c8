"""Samplers as init/step kernels over the LanguageModel protocol."""
