"""The engine of Reprise. What `__all__` names is public: extensions may rely on it, the rest may change."""
