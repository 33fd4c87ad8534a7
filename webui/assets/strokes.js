// Strokes over a picture: which pixels a brush covers, what they become, undo, and the PNG of it. They are kept in the
// picture's own pixels and never read back from a canvas element, which rounds, smooths and, in some browsers, adds noise.
// What is kept is what is sent. `canvas.js` has the page's side.
(() => {
  'use strict'
  const MAX_UNDO_BYTES = 256 * 2 ** 20, MAX_UNDO = 100

  // Strokes: 32-bit pixels, 0xAABBGGRR as every machine with a browser has it, colours not multiplied by alpha.
  class Strokes {
    constructor(width, height) {
      this.width = width
      this.height = height
      this.image = new ImageData(width, height)
      this.pixels = new Uint32Array(this.image.data.buffer)
      this.before = new Uint32Array(width * height)  // as it was when the stroke began; equal to pixels between strokes
      this.cover = new Uint8Array(width * height)  // of the stroke under way, so that it is laid on once
      this.sheet = Object.assign(document.createElement('canvas'), { width, height })
      this.context = this.sheet.getContext('2d')
      this.done = []
      this.undone = []
    }

    get all() {
      return { x: 0, y: 0, w: this.width, h: this.height }
    }

    // A disc drawn from one point to another: all pixels whose centre is no further from the line than the radius.
    line(brush, ax, ay, bx, by) {
      const r = brush.size / 2
      const top = Math.max(0, Math.ceil(Math.min(ay, by) - r - 0.5))
      const bottom = Math.min(this.height - 1, Math.floor(Math.max(ay, by) + r - 0.5))
      const box = { x: this.width, y: top, right: 0 }
      for (let y = top; y <= bottom; y++) {
        const [from, to] = span(y + 0.5, ax, ay, bx, by, r)
        const left = Math.max(0, Math.ceil(from - 0.5)), right = Math.min(this.width, Math.floor(to - 0.5) + 1)
        if (left >= right) continue
        this.row(brush, y, left, right, ax, ay, bx, by)
        box.x = Math.min(box.x, left)
        box.right = Math.max(box.right, right)
      }
      if (box.right > box.x) this.touch({ x: box.x, y: top, w: box.right - box.x, h: bottom - top + 1 })
    }

    row(brush, y, left, right, ax, ay, bx, by) {
      const at = y * this.width
      if (!brush.soft && (brush.erase || brush.opacity === 1)) {
        this.pixels.fill(brush.erase ? 0 : (0xff000000 | brush.colour) >>> 0, at + left, at + right)
        return
      }
      for (let x = left; x < right; x++) {
        const i = at + x
        const cover = brush.soft ? softness(distance(x + 0.5, y + 0.5, ax, ay, bx, by) / (brush.size / 2)) : 255
        if (cover <= this.cover[i]) continue
        this.cover[i] = cover
        const alpha = cover / 255 * brush.opacity
        this.pixels[i] = brush.erase ? erased(this.before[i], cover / 255) : over(this.before[i], brush.colour, alpha)
      }
    }

    // Every pixel made anew from what it was.
    each(made) {
      const { pixels } = this
      for (let i = 0; i < pixels.length; i++) pixels[i] = made(pixels[i])
      this.touch(this.all)
      this.end()
    }

    touch(box) {
      this.context.putImageData(this.image, 0, 0, box.x, box.y, box.w, box.h)
      this.dirty = this.dirty ? around(this.dirty, box) : box
    }

    // The stroke is done: one step that can be undone.
    end() {
      if (!this.dirty) return
      this.done.push({ box: this.dirty, pixels: cut(this.before, this.width, this.dirty) })
      this.undone = []
      let bytes = 0
      this.done.forEach((step) => { bytes += step.pixels.byteLength })
      while (this.done.length > 1 && (bytes > MAX_UNDO_BYTES || this.done.length > MAX_UNDO)) {
        bytes -= this.done.shift().pixels.byteLength
      }
      this.rest()
    }

    cancel() {
      if (!this.dirty) return
      lay(this.pixels, this.width, this.dirty, cut(this.before, this.width, this.dirty))
      this.context.putImageData(this.image, 0, 0, this.dirty.x, this.dirty.y, this.dirty.w, this.dirty.h)
      this.rest()
    }

    rest() {
      const { x, y, w, h } = this.dirty
      for (let row = y; row < y + h; row++) {
        const at = row * this.width + x
        this.before.set(this.pixels.subarray(at, at + w), at)
        this.cover.fill(0, at, at + w)
      }
      this.dirty = null
    }

    undo() { this.swap(this.done, this.undone) }
    redo() { this.swap(this.undone, this.done) }

    swap(from, to) {
      const step = from.pop()
      if (!step) return
      to.push({ box: step.box, pixels: cut(this.pixels, this.width, step.box) })
      lay(this.pixels, this.width, step.box, step.pixels)
      this.touch(step.box)
      this.rest()
    }

    // How many pixels have something, and whether any is half covered.
    count() {
      let some = 0, half = 0
      for (const pixel of this.pixels) {
        const alpha = pixel >>> 24
        if (alpha) some++
        if (alpha && alpha < 255) half++
      }
      return { some, half }
    }

    // The mask, white where something is: one bit a pixel where nothing is half covered.
    mask() {
      if (this.count().half) return this.png(8, 0, this.width, (raw, at, i) => this.plane(raw, at, i))
      return this.png(1, 0, Math.ceil(this.width / 8), (raw, at, i) => this.bits(raw, at, i))
    }

    colours() {
      const bytes = this.image.data
      return this.png(8, 6, 4 * this.width, (raw, at, i) => raw.set(bytes.subarray(4 * i, 4 * (i + this.width)), at))
    }

    plane(raw, at, i) {
      for (let x = 0; x < this.width; x++) raw[at + x] = this.pixels[i + x] >>> 24
    }

    bits(raw, at, i) {
      for (let x = 0; x < this.width; x++) if (this.pixels[i + x]) raw[at + (x >> 3)] |= 128 >> (x & 7)
    }

    async png(depth, kind, bytes, row) {
      const raw = new Uint8Array((bytes + 1) * this.height)  // each row behind its filter, none
      for (let y = 0; y < this.height; y++) row(raw, y * (bytes + 1) + 1, y * this.width)
      const packing = new Blob([raw]).stream().pipeThrough(new CompressionStream('deflate'))
      const head = new DataView(new ArrayBuffer(13))
      head.setUint32(0, this.width)
      head.setUint32(4, this.height)
      head.setUint8(8, depth)
      head.setUint8(9, kind)
      const data = new Uint8Array(await new Response(packing).arrayBuffer())
      const parts = [['IHDR', new Uint8Array(head.buffer)], ['IDAT', data], ['IEND', new Uint8Array()]]
      const signature = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10])
      return new Blob([signature, ...parts.map(([name, body]) => chunk(name, body))], { type: 'image/png' })
    }
  }

  // Where a row at height y enters and leaves the disc drawn from a to b. It is convex: one stretch.
  function span(y, ax, ay, bx, by, r) {
    let left = Infinity, right = -Infinity
    for (const [x, centre] of [[ax, ay], [bx, by]]) {
      const rest = r * r - (y - centre) ** 2
      if (rest < 0) continue
      left = Math.min(left, x - Math.sqrt(rest))
      right = Math.max(right, x + Math.sqrt(rest))
    }
    const dx = bx - ax, dy = by - ay, q = y - ay, length = Math.hypot(dx, dy)
    if (!length) return [left, right]
    let from = -Infinity, to = Infinity
    // Beside the line, u = x - ax: 0 <= u dx + q dy <= length^2 and |u dy - q dx| <= r length.
    for (const [k, low, high] of [[dx, -q * dy, length * length - q * dy], [dy, q * dx - r * length, q * dx + r * length]]) {
      if (k) {
        from = Math.max(from, Math.min(low / k, high / k))
        to = Math.min(to, Math.max(low / k, high / k))
      } else if (low > 0 || high < 0) return [left, right]
    }
    return from > to ? [left, right] : [Math.min(left, ax + from), Math.max(right, ax + to)]
  }

  function distance(x, y, ax, ay, bx, by) {
    const dx = bx - ax, dy = by - ay, square = dx * dx + dy * dy
    const t = square ? Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / square)) : 0
    return Math.hypot(x - ax - t * dx, y - ay - t * dy)
  }

  // From the middle, 0, to the rim, 1: full for a third of the way, then falling smoothly.
  function softness(way) {
    const t = Math.min(1, Math.max(0, (1 - way) * 1.5))
    return Math.round(255 * t * t * (3 - 2 * t))
  }

  function over(under, colour, alpha) {
    const below = (under >>> 24) / 255 * (1 - alpha), sum = alpha + below
    if (!sum) return 0
    let pixel = Math.round(255 * sum) << 24
    for (const shift of [0, 8, 16]) {
      const channel = (((colour >> shift) & 255) * alpha + ((under >>> shift) & 255) * below) / sum
      pixel |= Math.round(channel) << shift
    }
    return pixel >>> 0
  }

  function erased(under, alpha) {
    const left = Math.round((under >>> 24) * (1 - alpha))
    return left ? ((left << 24) | (under & 0xffffff)) >>> 0 : 0
  }

  function around(a, b) {
    const x = Math.min(a.x, b.x), y = Math.min(a.y, b.y)
    return { x, y, w: Math.max(a.x + a.w, b.x + b.w) - x, h: Math.max(a.y + a.h, b.y + b.h) - y }
  }

  function cut(pixels, width, { x, y, w, h }) {
    const part = new Uint32Array(w * h)
    for (let row = 0; row < h; row++) {
      const at = (y + row) * width + x
      part.set(pixels.subarray(at, at + w), row * w)
    }
    return part
  }

  function lay(pixels, width, { x, y, w, h }, part) {
    for (let row = 0; row < h; row++) pixels.set(part.subarray(row * w, (row + 1) * w), (y + row) * width + x)
  }

  const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1
    return n >>> 0
  })

  function chunk(name, body) {
    const bytes = new Uint8Array(12 + body.length), view = new DataView(bytes.buffer)
    view.setUint32(0, body.length)
    bytes.set(new TextEncoder().encode(name), 4)
    bytes.set(body, 8)
    let crc = 0xffffffff
    for (let i = 4; i < 8 + body.length; i++) crc = CRC[(crc ^ bytes[i]) & 255] ^ (crc >>> 8)
    view.setUint32(8 + body.length, ~crc >>> 0)
    return bytes
  }

  window.RepriseStrokes = Object.assign(Strokes, { over })
})()
