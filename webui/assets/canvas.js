// Painting on a picture: the view, pointers, keys, files in and out. The strokes themselves are in `strokes.js`.
(() => {
  'use strict'
  const MAX_PIXELS = 32e6
  const PAUSE_MS = 500, WHEEL_REST_MS = 400, STALE_MS = 6 * 3600e3
  const TYPES = ['png', 'jpeg', 'webp', 'avif', 'gif', 'bmp'].map((kind) => `image/${kind}`)
  const canvases = {}, early = {}  // early: what was sent to tabs that have not been looked at

  const hex = (colour) => `#${[0, 8, 16].map((shift) => ((colour >> shift) & 255).toString(16).padStart(2, '0')).join('')}`
  const number = (text) => { const value = parseInt(text.slice(1), 16); return ((value & 255) << 16) | (value & 0xff00) | (value >> 16) }

  // Files as the server names them. Names of our own, for those of people may have anything in them.
  async function upload(blob, name) {
    const form = new FormData()
    form.append('files', blob, name)
    const answer = await fetch('gradio_api/upload', { method: 'POST', body: form })
    const told = await answer.json().catch(() => ({}))
    if (!answer.ok) throw new Error(told.detail || `${answer.status}`)
    return told[0]
  }

  async function stored(path) {
    const answer = await fetch(`gradio_api/file=${path.split('/').map(encodeURIComponent).join('/')}`)
    if (!answer.ok) throw new Error(`${answer.status}`)
    return answer.blob()
  }

  // Colours of a picture that has no alpha come out of a canvas as they went in.
  function pixelsOf(bitmap, width, height) {
    const sheet = Object.assign(document.createElement('canvas'), { width, height })
    const context = sheet.getContext('2d', { willReadFrequently: true })
    context.imageSmoothingEnabled = false
    context.drawImage(bitmap, 0, 0, width, height)
    return new Uint32Array(context.getImageData(0, 0, width, height).data.buffer)
  }

  class Painter {
    constructor(home) {
      this.home = home
      this.tab = home.dataset.tab
      this.words = JSON.parse(home.dataset.words)
      this.canvas = home.querySelector('canvas')
      this.context = this.canvas.getContext('2d')
      this.tint = document.createElement('canvas')
      this.ring = home.querySelector('.rp-ring')
      this.said = home.querySelector('.rp-canvas-said')
      this.picture = this.strokes = null
      this.brush = { size: 24, colour: 0, opacity: 1, soft: false }
      this.tool = 'brush'
      this.view = { scale: 1, x: 0, y: 0, fits: true }
      this.pointers = new Map()
      this.version = this.sent = 0
      this.value = ''
      this.wire()
      this.choose('mode', home.dataset.mode)
      this.choose('tool', 'brush')
      this.tell()
      this.restore()
    }

    part(name) { return this.home.querySelector(`[data-part="${name}"]`) }

    wire() {
      const { home, canvas } = this
      home.addEventListener('click', (event) => {
        const button = event.target.closest('[data-do]')
        if (button) this.act(button.dataset.do, button)
      })
      home.addEventListener('input', (event) => this.typed(event.target))
      home.addEventListener('change', (event) => {
        const { target } = event
        if (target.dataset.mode) this.choose('mode', target.dataset.mode)
        if (target.dataset.tool) this.choose('tool', target.dataset.tool)
        if (target.type !== 'file' || !target.files.length) return
        if (target.dataset.part === 'file') this.load(target.files[0])
        else this.loadMask(target.files[0])
        target.value = ''
      })
      home.querySelector('form').addEventListener('submit', (event) => {
        event.preventDefault()
        this.makeBlank()
      })
      for (const name of ['dragenter', 'dragover']) home.addEventListener(name, (event) => this.hover(event, true))
      home.addEventListener('dragleave', (event) => { if (!home.contains(event.relatedTarget)) this.hover(event, false) })
      home.addEventListener('drop', (event) => {
        this.hover(event, false)
        const file = event.dataTransfer.files[0]
        if (file) this.load(file)
      })
      home.addEventListener('keydown', (event) => this.key(event))
      canvas.addEventListener('keyup', (event) => { if (event.code === 'Space') this.hand(false) })
      canvas.addEventListener('blur', () => this.hand(false))
      canvas.addEventListener('pointerdown', (event) => this.down(event))
      canvas.addEventListener('pointermove', (event) => this.move(event))
      for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, (event) => this.up(event))
      canvas.addEventListener('pointerleave', () => { this.ring.hidden = true })
      canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false })
      new ResizeObserver(() => this.resize()).observe(canvas)
    }

    hover(event, inside) {
      event.preventDefault()
      event.stopPropagation()
      this.home.toggleAttribute('data-over', inside)
    }

    // Choices

    choose(what, value) {
      this[what] = value
      this.home.dataset[what] = value
      const input = this.home.querySelector(`input[data-${what}="${value}"]`)
      if (input) input.checked = true
      if (what === 'mode') {
        if (this.tool === 'pick' && value !== 'colours') this.choose('tool', 'brush')
        this.changed()
      }
      this.draw()
    }

    typed(target) {
      const value = target.value
      switch (target.dataset.part) {
        case 'size': this.resizeBrush(Number(value)); this.sized = true; break
        case 'opacity': this.brush.opacity = Number(value) / 100; this.part('opacity-said').value = `${value}%`; break
        case 'colour': this.paintWith(number(value)); break
        case 'soft': this.brush.soft = target.checked; break
      }
    }

    resizeBrush(size) {
      this.brush.size = Math.min(Number(this.part('size').max), Math.max(1, Math.round(size)))
      this.part('size').value = this.brush.size
      this.part('size-said').value = `${this.brush.size} px`
      this.showRing()
    }

    paintWith(colour) {
      this.brush.colour = colour
      this.part('colour').value = hex(colour)
      for (const swatch of this.home.querySelectorAll('[data-colour]')) {
        swatch.setAttribute('aria-pressed', String(swatch.dataset.colour === hex(colour)))
      }
    }

    act(name, button) {
      const { strokes } = this
      switch (name) {
        case 'choose': return this.part('file').click()
        case 'mask-file': return this.part('mask-file').click()
        case 'remove': return this.remove()
        case 'blank': return this.askBlank(this.home.querySelector('form').hidden)
        case 'swatch': this.paintWith(number(button.dataset.colour)); return this.choose('tool', 'brush')
        case 'fit': return this.fit()
        case 'closer': return this.zoom(1.25)
        case 'further': return this.zoom(0.8)
      }
      if (!this.picture) return
      if (name === 'undo' || name === 'redo') strokes?.[name]()
      else this.layer().each(this.edit(name))
      this.changed()
      this.draw()
    }

    // Clear, fill and invert, as what each becomes of a pixel.
    edit(name) {
      const colour = this.brush.colour, alpha = this.mode === 'mask' ? 1 : this.brush.opacity
      if (name === 'fill') return (pixel) => window.RepriseStrokes.over(pixel, colour, alpha)
      if (name === 'invert') return (pixel) => (255 - (pixel >>> 24) ? (((255 - (pixel >>> 24)) << 24) | colour) >>> 0 : 0)
      return () => 0
    }

    layer() {
      this.strokes ??= new window.RepriseStrokes(this.picture.width, this.picture.height)
      return this.strokes
    }

    // Pictures

    load(file) {
      if (file.type && !TYPES.includes(file.type)) return this.say('type')
      if (file.size > Number(this.home.dataset.maxBytes)) return this.say('large')
      return this.wait(this.show(file))
    }

    // What a send has to wait for.
    wait(work) {
      this.loading = Promise.allSettled([this.loading, work])
      return work.catch(() => this.say('unreadable'))
    }

    async show(blob, path = '') {
      const bitmap = await createImageBitmap(blob)
      const { width, height } = bitmap
      if (width * height > MAX_PIXELS) {
        bitmap.close()
        return this.say('pixels')
      }
      this.picture?.bitmap.close()
      this.picture = { blob, bitmap, width, height, path, sentAt: Date.now() }
      this.strokes = null
      this.home.dataset.filled = ''
      this.part('size').max = Math.max(64, Math.round(Math.max(width, height) / 2))
      if (!this.sized) this.resizeBrush(Math.min(width, height) / 10)
      this.cursor = [width / 2, height / 2]
      this.fit()
      this.changed()
    }

    remove() {
      this.picture?.bitmap.close()
      this.picture = this.strokes = null
      delete this.home.dataset.filled
      this.changed()
      this.draw()
      this.part('choose').focus()
    }

    askBlank(open) {
      const form = this.home.querySelector('form')
      form.hidden = !open
      if (!open) return
      for (const side of ['width', 'height']) {
        const asked = document.querySelector(`#${this.tab}_${side} input`)
        if (asked?.value) form.elements[side].value = asked.value
      }
      form.elements.width.focus()
    }

    makeBlank() {
      const { width, height, ground } = this.home.querySelector('form').elements
      const sheet = Object.assign(document.createElement('canvas'), { width: width.value, height: height.value })
      const context = sheet.getContext('2d')
      context.fillStyle = ground.value
      context.fillRect(0, 0, sheet.width, sheet.height)
      this.wait(new Promise((done) => { sheet.toBlob(done) }).then(async (blob) => {
        await this.show(blob)
        this.askBlank(false)
        this.choose('mode', 'colours')
        this.canvas.focus({ preventScroll: true })
      }))
    }

    // A mask from a file: white, or where the file has alpha what is opaque, as large as the picture.
    loadMask(file) {
      if (!this.picture) return this.say('first')
      return this.wait(createImageBitmap(file).then((bitmap) => {
        const { width, height } = this.picture
        const fits = bitmap.width === width && bitmap.height === height
        this.layMask(pixelsOf(bitmap, width, height))
        bitmap.close()
        this.tell(fits ? '' : this.words.resized)
      }))
    }

    layMask(pixels) {
      const strokes = this.layer(), { colour } = this.brush
      const shows = pixels.some((pixel) => pixel >>> 24 < 255)
      let i = 0
      strokes.each(() => {
        const pixel = pixels[i++], r = pixel & 255, g = (pixel >>> 8) & 255, b = (pixel >>> 16) & 255
        // Pillow's grey: ITU-R 601-2 in 16 bits.
        const grey = shows ? (pixel >>> 24 > 128 ? 255 : 0) : (r * 19595 + g * 38470 + b * 7471 + 0x8000) >>> 16
        return grey ? ((grey << 24) | colour) >>> 0 : 0
      })
      this.changed()
      this.draw()
    }

    // What another tab sent: a path of the server's, taken as if its file had been dropped here.
    take(text) {
      let given
      try { given = JSON.parse(text) } catch (error) { return }
      if (!given?.shown || given.number === this.taken) return
      this.taken = given.number
      this.wait(stored(given.shown).then((blob) => this.show(blob)))
    }

    // To the server, and back after the page is loaded again

    get shelf() { return `reprise.canvas.${this.tab}` }

    changed() {
      this.version++
      clearTimeout(this.timer)
      this.timer = setTimeout(() => this.settled(), PAUSE_MS)
    }

    // Resolves to the field's value when the server has all that is shown.
    settled() {
      this.settling ??= this.settle().finally(() => { this.settling = null })
      return this.settling
    }

    async settle() {
      do {
        await this.loading
        const { version } = this
        try {
          if (this.sent !== version || this.stale) this.value = await this.handOver()
          this.sent = version
        } catch (error) {
          const problem = this.words.lost.replace('{why}', error.message)
          this.value = JSON.stringify({ problem })
          this.tell(problem)
          this.sent = -1
          break
        }
      } while (this.sent !== this.version)
      this.keep(this.value)
      return this.value
    }

    get field() { return document.querySelector(`#${this.tab}_canvas textarea, #${this.tab}_canvas input`) }

    // Uploads are swept after a day.
    get stale() { return this.picture && Date.now() - this.picture.sentAt > STALE_MS }

    async handOver() {
      const { picture, strokes, mode } = this
      if (!picture) return ''
      if (!picture.path || this.stale) {
        picture.path = await upload(picture.blob, `picture.${(picture.blob.type || 'image/png').slice(6)}`)
        picture.sentAt = Date.now()
      }
      const { some } = strokes ? strokes.count() : { some: 0 }
      this.tell(some && mode !== 'view' ? this.words.painted.replace('{share}', share(some / strokes.pixels.length)) : '')
      const value = { picture: { path: picture.path }, mode }
      if (some) {
        const painted = await (mode === 'mask' ? strokes.mask() : strokes.colours())
        value.strokes = { path: await upload(painted, 'strokes.png') }
      }
      return JSON.stringify(value)
    }

    keep(value) {
      const { field } = this
      if (field && field.value !== value) {
        field.value = value
        field.dispatchEvent(new Event('input', { bubbles: true }))
      }
      try { sessionStorage.setItem(this.shelf, value) } catch (error) { /* a page that is loaded again starts empty then */ }
    }

    restore() {
      if (early[this.tab]) return this.take(early[this.tab])
      let kept = null
      try { kept = JSON.parse(sessionStorage.getItem(this.shelf)) } catch (error) { /* nothing was kept */ }
      if (!kept?.picture?.path) return
      const work = async () => {
        await this.show(await stored(kept.picture.path), kept.picture.path)
        this.choose('mode', kept.mode)
        if (!kept.strokes) return
        const bitmap = await createImageBitmap(await stored(kept.strokes.path))
        const pixels = pixelsOf(bitmap, this.picture.width, this.picture.height)
        if (kept.mode === 'mask') return this.layMask(pixels)
        const strokes = this.layer()
        let i = 0
        strokes.each(() => pixels[i++])
        this.draw()
      }
      // The server forgets uploads when it stops; then the canvas is simply empty.
      this.loading = Promise.allSettled([this.loading, work()])
    }

    // View

    resize() {
      const { canvas, view } = this, ratio = window.devicePixelRatio || 1
      const { width, height } = canvas.getBoundingClientRect()
      if (!width) return
      canvas.width = Math.round(width * ratio)
      canvas.height = Math.round(height * ratio)
      if (view.fits) this.fit()
      else this.draw()
    }

    fit() {
      if (!this.picture) return
      const box = this.canvas.getBoundingClientRect(), { width, height } = this.picture
      const scale = Math.min(box.width / width, box.height / height) || 1
      this.view = { scale, x: (box.width - width * scale) / 2, y: (box.height - height * scale) / 2, fits: true }
      this.draw()
    }

    zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
      if (!this.picture) return
      const { view } = this, scale = Math.min(64, Math.max(0.02, view.scale * factor))
      const grown = scale / view.scale
      this.view = { scale, x: x - (x - view.x) * grown, y: y - (y - view.y) * grown, fits: false }
      this.draw()
    }

    pan(dx, dy) {
      this.view = { ...this.view, x: this.view.x + dx, y: this.view.y + dy, fits: false }
      this.draw()
    }

    // A place in the view, in the picture's pixels.
    place(x, y) { return [(x - this.view.x) / this.view.scale, (y - this.view.y) / this.view.scale] }

    within(event) {
      const box = this.canvas.getBoundingClientRect()
      return [event.clientX - box.left, event.clientY - box.top]
    }

    draw() { this.drawing ??= requestAnimationFrame(() => { this.drawing = null; this.drawNow() }) }

    drawNow() {
      const { canvas, context, picture, strokes, view } = this
      context.setTransform(1, 0, 0, 1, 0, 0)
      context.clearRect(0, 0, canvas.width, canvas.height)
      this.showState()
      if (!picture) return
      const ratio = canvas.width / canvas.getBoundingClientRect().width
      const place = [view.x * ratio, view.y * ratio, picture.width * view.scale * ratio, picture.height * view.scale * ratio]
      context.imageSmoothingEnabled = view.scale * ratio < 2
      context.drawImage(picture.bitmap, ...place)
      if (!strokes || this.mode === 'view') return
      if (this.mode === 'colours') return context.drawImage(strokes.sheet, ...place)
      this.drawMask(place)
    }

    // A mask is seen as one colour that lets the picture through, whatever colours its strokes have.
    drawMask(place) {
      const { canvas, context, tint } = this
      if (tint.width !== canvas.width || tint.height !== canvas.height) Object.assign(tint, { width: canvas.width, height: canvas.height })
      const above = tint.getContext('2d')
      above.globalCompositeOperation = 'copy'
      above.imageSmoothingEnabled = context.imageSmoothingEnabled
      above.drawImage(this.strokes.sheet, ...place)
      above.globalCompositeOperation = 'source-in'
      above.fillStyle = '#ff3d6e'
      above.fillRect(0, 0, tint.width, tint.height)
      context.globalAlpha = 0.55
      context.drawImage(tint, 0, 0)
      context.globalAlpha = 1
    }

    showState() {
      const { strokes, picture } = this
      const free = { undo: strokes?.done.length, redo: strokes?.undone.length }
      for (const button of this.home.querySelectorAll('[data-needs]')) {
        const needed = button.dataset.needs
        button.disabled = !(needed in free ? free[needed] : picture)
      }
      this.part('zoom').value = picture ? `${Math.round(100 * this.view.scale)}%` : ''
      this.showRing()
    }

    showRing() {
      const { ring, view, at } = this
      ring.hidden = !at || !this.paints
      if (ring.hidden) return
      const size = Math.max(3, this.brush.size * view.scale)
      ring.style.width = ring.style.height = `${size}px`
      ring.style.transform = `translate(${at[0] - size / 2}px, ${at[1] - size / 2}px)`
    }

    get paints() { return this.picture && this.mode !== 'view' && (this.tool === 'brush' || this.tool === 'eraser') && !this.home.dataset.hand }

    // Pointers

    down(event) {
      if (!this.picture || (event.button !== 0 && event.button !== 1 && event.button !== 5)) return
      event.preventDefault()
      this.canvas.focus({ preventScroll: true })
      this.canvas.setPointerCapture(event.pointerId)
      const at = this.within(event)
      this.pointers.set(event.pointerId, at)
      if (this.pointers.size > 1) return this.spread()
      if (event.button === 1 || this.home.dataset.hand || this.tool === 'hand' || this.mode === 'view') this.stroke = null
      else if (this.tool === 'pick') this.pick(at)
      else {
        const place = this.place(...at)
        this.stroke = { id: event.pointerId, brush: this.brushFor(event.button === 5), last: place }
        this.layer().line(this.stroke.brush, ...place, ...place)
        this.draw()
      }
    }

    brushFor(rubber) {
      const opaque = this.mode === 'mask' || this.tool === 'eraser'
      return { ...this.brush, erase: rubber || this.tool === 'eraser', opacity: opaque ? 1 : this.brush.opacity }
    }

    // A second finger: what the first has begun to paint was none of its intent.
    spread() {
      if (this.stroke) this.strokes.cancel()
      this.stroke = null
      this.pinched = this.reach()
      this.draw()
    }

    // Middle and distance of two fingers.
    reach() {
      const [a, b] = [...this.pointers.values()]
      return { x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2, wide: Math.hypot(a[0] - b[0], a[1] - b[1]) || 1 }
    }

    move(event) {
      const at = this.at = this.within(event)
      const before = this.pointers.get(event.pointerId)
      if (!before) return this.showRing()
      this.pointers.set(event.pointerId, at)
      if (this.pointers.size > 1) this.pinch()
      else if (this.stroke) this.follow(event)
      else if (this.tool === 'pick' && this.mode === 'colours') this.pick(at)
      else this.pan(at[0] - before[0], at[1] - before[1])
    }

    follow(event) {
      const moves = event.getCoalescedEvents?.() ?? []
      for (const move of moves.length ? moves : [event]) {
        const place = this.place(...this.within(move))
        this.strokes.line(this.stroke.brush, ...this.stroke.last, ...place)
        this.stroke.last = place
      }
      this.draw()
    }

    pinch() {
      const was = this.pinched, now = this.pinched = this.reach()
      this.pan(now.x - was.x, now.y - was.y)
      this.zoom(now.wide / was.wide, now.x, now.y)
    }

    up(event) {
      this.pointers.delete(event.pointerId)
      if (this.pointers.size > 1) this.pinched = this.reach()
      if (event.pointerType === 'touch') this.at = null
      if (!this.stroke || this.stroke.id !== event.pointerId) return
      this.stroke = null
      this.strokes.end()
      this.changed()
      this.draw()
    }

    pick(at) {
      const [x, y] = this.place(...at).map(Math.floor), { picture, strokes } = this
      if (x < 0 || y < 0 || x >= picture.width || y >= picture.height) return
      const context = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d')
      context.drawImage(picture.bitmap, -x, -y)
      if (strokes) context.drawImage(strokes.sheet, -x, -y)
      const [r, g, b] = context.getImageData(0, 0, 1, 1).data
      this.paintWith(r | (g << 8) | (b << 16))
    }

    // Someone who scrolls the page goes on doing so when the canvas comes under the pointer.
    wheel(event) {
      if (!this.picture || event.timeStamp - scrolled < WHEEL_REST_MS) return
      event.preventDefault()
      event.stopPropagation()
      const turn = Math.exp(-Math.sign(event.deltaY) * Math.min(1, Math.abs(event.deltaY) / 100) * 0.2)
      if (event.ctrlKey || event.metaKey) {
        this.sized = true
        this.resizeBrush(turn > 1 ? Math.max(this.brush.size + 1, this.brush.size * turn) : Math.min(this.brush.size - 1, this.brush.size * turn))
      } else this.zoom(turn, ...this.within(event))
    }

    // Keys

    hand(held) {
      if (held) this.home.dataset.hand = 'held'
      else delete this.home.dataset.hand
      this.showRing()
    }

    key(event) {
      if (event.isComposing || event.altKey || !this.picture) return
      const letter = event.key.toLowerCase()
      if (event.ctrlKey || event.metaKey) {
        const what = letter === 'z' ? (event.shiftKey ? 'redo' : 'undo') : letter === 'y' ? 'redo' : ''
        if (!what || event.target.matches('input[type=number], input[type=text]')) return
        this.act(what)
      } else if (event.target === this.canvas) {
        if (!this.press(event.code === 'Space' ? 'space' : letter, event.shiftKey)) return
      } else return
      event.preventDefault()
    }

    press(key, shift) {
      const sizes = { '[': 0.8, ']': 1.25 }, zooms = { '+': 1.25, '=': 1.25, '-': 0.8 }
      const tools = { b: 'brush', e: 'eraser', h: 'hand', i: 'pick' }
      const ways = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }
      if (sizes[key]) {
        this.sized = true
        this.resizeBrush(key === ']' ? Math.max(this.brush.size + 1, this.brush.size * 1.25) : Math.min(this.brush.size - 1, this.brush.size * 0.8))
      } else if (zooms[key]) this.zoom(zooms[key])
      else if (key === '0') this.fit()
      else if (key === 'space') this.hand(true)
      else if (tools[key] && this.mode !== 'view' && (key !== 'i' || this.mode === 'colours')) this.choose('tool', tools[key])
      else if (key === 'enter' && this.paints) this.dab(...this.cursor)
      else if (ways[key]) this.walk(ways[key], shift)
      else return false
      return true
    }

    // Painting by keys: arrows move the brush, with Shift it paints on its way.
    walk([dx, dy], paints) {
      const { width, height } = this.picture, step = Math.max(1, Math.round(this.brush.size / 2))
      const from = this.cursor
      this.cursor = [Math.min(width, Math.max(0, from[0] + dx * step)), Math.min(height, Math.max(0, from[1] + dy * step))]
      if (paints && this.paints) this.dab(...from)
      const { view } = this
      this.at = [view.x + this.cursor[0] * view.scale, view.y + this.cursor[1] * view.scale]
      this.tell(this.words.at.replace('{place}', this.cursor.map(Math.round).join(', ')))
      this.showRing()
    }

    dab(x, y) {
      this.layer().line(this.brushFor(false), x, y, ...this.cursor)
      this.strokes.end()
      this.changed()
      this.draw()
    }

    // The line below

    tell(more = '') {
      const { picture } = this
      this.said.textContent = [picture ? `${picture.width} × ${picture.height}` : '', more].filter(Boolean).join(' · ')
    }

    say(word) { this.tell(this.words[word]) }
  }

  const share = (part) => `${part < 0.1 ? (100 * part).toFixed(1) : Math.round(100 * part)}%`
  let scrolled = -Infinity

  const mount = (home) => { if (home && !home.painter) canvases[home.dataset.tab] = home.painter = new Painter(home) }
  document.addEventListener('reprise:canvas', (event) => mount(event.detail.querySelector('.rp-canvas')))
  document.addEventListener('reprise:sent', ({ detail: { tab, value } }) => {
    if (canvases[tab]) canvases[tab].take(value)
    else early[tab] = value
  })
  document.addEventListener('wheel', (event) => {
    if (!event.target.closest?.('.rp-canvas canvas') || event.timeStamp - scrolled < WHEEL_REST_MS) scrolled = event.timeStamp
  }, { passive: true, capture: true })
  document.addEventListener('paste', (event) => {
    const file = [...event.clipboardData.files].find((found) => found.type.startsWith('image/'))
    const painter = Object.values(canvases).find(({ home }) => home.offsetParent !== null)
    if (!file || !painter || event.defaultPrevented) return
    event.preventDefault()
    painter.load(file)
  })

  // A handler's values, with the canvas's own at that place when the server has what it shows.
  window.repriseCanvas = async (tab, index, values) => {
    if (canvases[tab]) values[index] = await canvases[tab].settled()
    return values
  }
})()
