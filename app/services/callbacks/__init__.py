"""Providers' callbacks: verified, kept, read and stored."""
