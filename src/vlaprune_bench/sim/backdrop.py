"""What does not move before a camera that does not move, drawn once and put behind what does.

A frame is decided sample by sample (one or four a pixel) by depth: which of all surfaces is
nearest. So the surfaces of things at rest may be drawn once and kept, colour and depth of every
sample, and only what moves is drawn anew; then each sample takes the nearer of the two. No pixel
differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_VERTEX = """
#version 150 compatibility
void main() { gl_Position = gl_Vertex; }
"""
_FRAGMENT = """
#version 150 compatibility
{extension}
uniform {sampler} colour;
uniform {sampler} depth;
void main() {{
    ivec2 at = ivec2(gl_FragCoord.xy);
    gl_FragColor = texelFetch(colour, at, {sample});
    gl_FragDepth = texelFetch(depth, at, {sample}).r;
}}
"""
_ONE = {"extension": "", "sampler": "sampler2D", "sample": "0"}
_SEVERAL = {
    "extension": "#extension GL_ARB_sample_shading : require",
    "sampler": "sampler2DMS",
    "sample": "gl_SampleID",
}
"""How a sample is read where a pixel has one, and where it has several."""


class Backdrop:
    """Samples of a frame, to be put behind another one, in the offscreen buffer of MuJoCo."""

    def __init__(self, context: Any, size: int) -> None:
        """Make textures like the offscreen buffer's; its GL context is current.

        Args:
            context: MuJoCo's rendering context (`MjrContext`).
            size: Side of the square frames, pixels.

        Raises:
            OpenGL.error.Error, RuntimeError: this OpenGL cannot; draw everything then.
        """
        from OpenGL import GL
        from OpenGL.GL import shaders

        self._gl, self._size, self._target = GL, size, int(context.offFBO)
        samples = int(context.offSamples)
        several = samples > 1
        self._kind = GL.GL_TEXTURE_2D_MULTISAMPLE if several else GL.GL_TEXTURE_2D
        colour, depth = (
            self._format(buffer) for buffer in (context.offColor, context.offDepthStencil)
        )
        GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, GL.glGenFramebuffers(1))
        self._buffer = GL.glGetIntegerv(GL.GL_FRAMEBUFFER_BINDING)
        self._textures = [int(name) for name in GL.glGenTextures(2)]
        for texture, kind, place in zip(
            self._textures,
            (colour, depth),
            (GL.GL_COLOR_ATTACHMENT0, GL.GL_DEPTH_STENCIL_ATTACHMENT),
            strict=True,
        ):
            GL.glBindTexture(self._kind, texture)
            if several:
                GL.glTexImage2DMultisample(self._kind, samples, kind, size, size, True)
            else:
                GL.glTexStorage2D(self._kind, 1, kind, size, size)
                GL.glTexParameteri(self._kind, GL.GL_TEXTURE_MIN_FILTER, GL.GL_NEAREST)
            GL.glFramebufferTexture2D(GL.GL_FRAMEBUFFER, place, self._kind, texture, 0)
        GL.glBindTexture(self._kind, 0)
        whole = GL.glCheckFramebufferStatus(GL.GL_FRAMEBUFFER) == GL.GL_FRAMEBUFFER_COMPLETE
        GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, self._target)
        if not whole:
            raise RuntimeError("no buffer of the offscreen buffer's kind")
        self._program = shaders.compileProgram(
            shaders.compileShader(_VERTEX, GL.GL_VERTEX_SHADER),
            shaders.compileShader(
                _FRAGMENT.format(**(_SEVERAL if several else _ONE)), GL.GL_FRAGMENT_SHADER
            ),
            validate=False,
        )
        self._places = [
            GL.glGetUniformLocation(self._program, name) for name in ("colour", "depth")
        ]

    def keep(self) -> None:
        """Keep all samples of what was drawn last."""
        gl, size = self._gl, self._size
        gl.glBindFramebuffer(gl.GL_READ_FRAMEBUFFER, self._target)
        gl.glBindFramebuffer(gl.GL_DRAW_FRAMEBUFFER, self._buffer)
        both = gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT
        gl.glBlitFramebuffer(0, 0, size, size, 0, 0, size, size, both, gl.GL_NEAREST)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._target)

    def put_behind(self) -> None:
        """Give each sample of what was drawn last the kept one's colour, unless it is nearer.

        MuJoCo's depth is 1 at the near plane and 0 at the far one.
        """
        gl = self._gl
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._target)
        gl.glPushAttrib(gl.GL_ALL_ATTRIB_BITS)
        for what in (
            gl.GL_BLEND, gl.GL_CULL_FACE, gl.GL_STENCIL_TEST, gl.GL_SCISSOR_TEST, gl.GL_ALPHA_TEST,
            gl.GL_LIGHTING, gl.GL_FOG,
        ):  # fmt: skip
            gl.glDisable(what)
        gl.glEnable(gl.GL_DEPTH_TEST)
        gl.glDepthFunc(gl.GL_GEQUAL)
        gl.glDepthMask(True)
        gl.glColorMask(True, True, True, True)
        gl.glPolygonMode(gl.GL_FRONT_AND_BACK, gl.GL_FILL)
        gl.glViewport(0, 0, self._size, self._size)
        gl.glUseProgram(self._program)
        for unit, (texture, place) in enumerate(zip(self._textures, self._places, strict=True)):
            gl.glActiveTexture(gl.GL_TEXTURE0 + unit)
            gl.glBindTexture(self._kind, texture)
            gl.glUniform1i(place, unit)
        gl.glRectf(-1, -1, 1, 1)
        gl.glUseProgram(0)
        for unit in (1, 0):
            gl.glActiveTexture(gl.GL_TEXTURE0 + unit)
            gl.glBindTexture(self._kind, 0)
        gl.glPopAttrib()

    def _format(self, buffer: int) -> int:
        gl = self._gl
        gl.glBindRenderbuffer(gl.GL_RENDERBUFFER, int(buffer))
        kind = gl.glGetRenderbufferParameteriv(
            gl.GL_RENDERBUFFER, gl.GL_RENDERBUFFER_INTERNAL_FORMAT
        )
        gl.glBindRenderbuffer(gl.GL_RENDERBUFFER, 0)
        return int(np.ravel(kind)[0])
